package pcsctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"hsmbackup/internal/pcsc"
	"hsmbackup/internal/vpcd"
)

// Slots is how many tokens the virtual reader takes.
const Slots = 2

const (
	basePort   = 35963 // of slot 0; slot 1 is one up
	configFile = "/run/reader.conf"
	logFile    = "/run/pcscd.log"
	patience   = 60 * time.Second
)

// Daemon is the private pcscd of this process.
type Daemon struct {
	mu      sync.Mutex
	process *os.Process
	ended   chan struct{} // closed when the process has ended
	slots   [Slots]*plug
}

type plug struct {
	cancel context.CancelFunc
	done   chan error
}

var daemon Daemon

// Start runs pcscd if it does not run yet, and gives it. It goes on until the
// process ends or Stop.
func Start(tb testing.TB) *Daemon {
	tb.Helper()
	if errOutside != nil {
		tb.Fatalf("pcsctest: %v", errOutside)
	}
	if err := daemon.start(); err != nil {
		tb.Fatalf("pcsctest: %v", err)
	}
	return &daemon
}

// driver finds the virtual reader's driver where `make deps` unpacks it.
func driver() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "hsmbackup", "vpcd")
	for _, pattern := range []string{"usr/lib/pcsc/drivers/serial", "usr/lib/*/pcsc/drivers/serial"} {
		found, err := filepath.Glob(filepath.Join(root, pattern, "libifdvpcd.so"))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("no virtual reader in %s: run make deps", root)
}

func (d *Daemon) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running() {
		return nil
	}
	lib, err := driver()
	if err != nil {
		return err
	}
	program, err := lookPath("pcscd")
	if err != nil {
		return err
	}
	config := fmt.Sprintf("FRIENDLYNAME \"Virtual PCD\"\nDEVICENAME /dev/null:0x%X\nLIBPATH %s\nCHANNELID 0x%X\n", basePort, lib, basePort)
	if err := os.WriteFile(configFile, []byte(config), 0o600); err != nil {
		return err
	}
	args := []string{"-f", "-c", configFile}
	// Where pcscd asks polkit it refuses everybody without one to ask.
	help, _ := exec.Command(program, "--help").CombinedOutput() // its exit code says nothing
	if bytes.Contains(help, []byte("--disable-polkit")) {
		args = append(args, "--disable-polkit")
	}
	if err := d.spawn(program, args); err != nil {
		return err
	}
	err = poll(func() (bool, error) {
		if !d.running() {
			return false, errors.New("pcscd ended")
		}
		readers, err := pcsc.Readers(context.Background())
		if errors.Is(err, pcsc.ErrNoService) {
			return false, nil
		}
		return len(readers) == Slots, err
	})
	if err != nil {
		log, _ := os.ReadFile(logFile)
		return fmt.Errorf("pcscd does not come up: %v\n%s", err, log)
	}
	return nil
}

// spawn starts pcscd so that it ends with this process, however that ends.
func (d *Daemon) spawn(program string, args []string) error {
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// The signal comes when the thread that started it ends, so that thread
		// must last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	d.process, d.ended = cmd.Process, ended
	return nil
}

// running needs mu.
func (d *Daemon) running() bool {
	if d.process == nil {
		return false
	}
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// Stop ends pcscd, for a test of what happens then. Tokens stay at hand: they
// plug themselves in again after the next Start.
func (d *Daemon) Stop(tb testing.TB) {
	tb.Helper()
	d.stop()
}

func (d *Daemon) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.running() {
		return
	}
	_ = d.process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-d.ended:
	case <-time.After(5 * time.Second):
		_ = d.process.Kill()
		<-d.ended
	}
	d.process = nil
}

// ReaderName is the PC/SC name of a slot, 0 or 1. Tools that count readers
// number them likewise.
func (d *Daemon) ReaderName(slot int) string {
	return fmt.Sprintf("Virtual PCD 00 %02d", slot)
}

// Plug puts a card into a slot and waits until pcscd sees it. It is unplugged
// when the test ends, or by Unplug. A slot that is taken fails the test.
func (d *Daemon) Plug(tb testing.TB, slot int, card vpcd.Card) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &plug{cancel: cancel, done: make(chan error, 1)}
	d.mu.Lock()
	taken := d.slots[slot] != nil
	if !taken {
		d.slots[slot] = p
	}
	d.mu.Unlock()
	if taken {
		cancel()
		tb.Fatalf("pcsctest: slot %d is taken", slot)
	}
	// What pcscd still sees of a card before this one would pass for it.
	if err := poll(func() (bool, error) {
		r, err := d.look(slot)
		return !r.Present, err
	}); err != nil {
		cancel()
		d.free(slot, p)
		tb.Fatalf("pcsctest: slot %d is not empty: %v", slot, err)
	}
	go func() { p.done <- vpcd.Serve(ctx, fmt.Sprintf("127.0.0.1:%d", basePort+slot), card) }()
	tb.Cleanup(func() { d.unplug(tb, slot, p) })
	atr := card.ATR()
	err := poll(func() (bool, error) {
		select {
		case err := <-p.done:
			p.done <- err
			return false, fmt.Errorf("the card is out: %w", err)
		default:
		}
		r, err := d.look(slot)
		return r.Present && bytes.Equal(r.ATR, atr), err
	})
	if err != nil {
		log, _ := os.ReadFile(logFile)
		tb.Fatalf("pcsctest: pcscd does not see the card in slot %d: %v\n%s", slot, err, log)
	}
}

// Unplug pulls the card out of a slot and waits until pcscd has noticed. An
// empty slot stays empty.
func (d *Daemon) Unplug(tb testing.TB, slot int) {
	tb.Helper()
	d.mu.Lock()
	p := d.slots[slot]
	d.mu.Unlock()
	d.unplug(tb, slot, p)
}

// unplug does nothing if p is not in the slot any more.
func (d *Daemon) unplug(tb testing.TB, slot int, p *plug) {
	tb.Helper()
	if !d.free(slot, p) {
		return
	}
	p.cancel()
	<-p.done
	d.mu.Lock()
	up := d.running()
	d.mu.Unlock()
	if !up {
		return
	}
	err := poll(func() (bool, error) {
		r, err := d.look(slot)
		return !r.Present, err
	})
	if err != nil {
		tb.Errorf("pcsctest: pcscd still sees the card in slot %d: %v", slot, err)
	}
}

// free takes p out of the slot and tells whether it was in there.
func (d *Daemon) free(slot int, p *plug) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == nil || d.slots[slot] != p {
		return false
	}
	d.slots[slot] = nil
	return true
}

func (d *Daemon) look(slot int) (pcsc.Reader, error) {
	readers, err := pcsc.Readers(context.Background())
	if err != nil {
		return pcsc.Reader{}, err
	}
	for _, r := range readers {
		if r.Name == d.ReaderName(slot) {
			return r, nil
		}
	}
	return pcsc.Reader{}, fmt.Errorf("no reader %q among %v", d.ReaderName(slot), readers)
}

// poll asks until the answer is yes or an error, or patience ends.
func poll(ask func() (bool, error)) error {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		yes, err := ask()
		if yes || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("nothing for %v", patience)
		}
	}
}
