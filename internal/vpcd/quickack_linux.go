package vpcd

import (
	"net"
	"syscall"
)

// acknowledge has what was received acknowledged now, and not after the 40 ms
// that Linux may wait. The option holds for a while only, so it is set before
// each read; failing costs speed and nothing else.
func acknowledge(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}
