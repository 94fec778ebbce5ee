package doctor

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// envNames are the variables that tell what kind of session this is. Of those
// in envHidden only that they are set is noted.
var (
	envNames  = []string{"SSH_CONNECTION", "SESSIONNAME", "WSL_DISTRO_NAME", "XDG_SESSION_TYPE"}
	envHidden = []string{"SSH_CONNECTION"}
)

// ccidLists are where libccid has its list of readers.
var ccidLists = []string{
	"/usr/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist",
	"/usr/lib64/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist",
	"/usr/lib64/readers/ifd-ccid.bundle/Contents/Info.plist",
	"/usr/lib/readers/usb/ifd-ccid.bundle/Contents/Info.plist",
	"/usr/local/lib/pcsc/drivers/ifd-ccid.bundle/Contents/Info.plist",
	"/usr/libexec/SmartCardServices/drivers/ifd-ccid.bundle/Contents/Info.plist",
}

// fileNames are looked into; those that end in a slash, and the devices, are
// only looked for.
var fileNames = map[string][]string{
	"linux": {
		"/etc/os-release", "/proc/sys/kernel/osrelease", "/proc/self/mountinfo", "/proc/swaps", "/proc/sys/kernel/core_pattern", "/sys/power/state",
		"/run/systemd/system/", "/.dockerenv", "/run/.containerenv", polkitPCSC, "/usr/sbin/pcscd", pcscdSocket,
	},
	"freebsd": {"/usr/local/sbin/pcscd"},
	"windows": {`C:\hiberfil.sys`},
}

// onlyLookedFor are files whose content does not matter, or cannot be read.
var onlyLookedFor = []string{polkitPCSC, "/usr/sbin/pcscd", "/usr/local/sbin/pcscd", pcscdSocket, `C:\hiberfil.sys`, "/.dockerenv", "/run/.containerenv"}

var (
	openSCCommands = []string{"opensc-tool --info", "/Library/OpenSC/bin/opensc-tool --info", `C:\Program Files\OpenSC Project\OpenSC\tools\opensc-tool.exe --info`}
	usbipdCommands = []string{"usbipd --version", "usbipd.exe --version"}
)

// commandLines are run; they only look. A program whose path has blanks is
// followed by a single argument.
var commandLines = map[string][]string{
	"linux":   {"pcscd --version", openSCCommands[0], "loginctl show-session self -p Remote"},
	"wsl":     {"usbipd.exe --version", "usbipd.exe list"},
	"darwin":  {"sw_vers -productVersion", openSCCommands[0], openSCCommands[1], "mount", "fdesetup status", "ps -axo pid=,comm="},
	"freebsd": {"pcscd --version", openSCCommands[0], "mount", "ps -axo pid=,comm="},
	"windows": {"cmd /c ver", openSCCommands[0], openSCCommands[2], "sc.exe query SCardSvr", "net use", "usbipd --version", "usbipd list", "tasklist /fo csv /nh"},
}

// commandTime is how long a program may take, maxOutput how much of what it
// prints, or of a file, is kept.
const (
	commandTime = 5 * time.Second
	maxOutput   = 256 << 10
)

// Gather looks at the machine. Readers and catalog are the caller's to fill in.
func Gather(ctx context.Context, now, built time.Time) *Facts {
	f := &Facts{OS: runtime.GOOS, Root: os.Geteuid() == 0, Now: now, Built: built, Env: map[string]string{}, Files: map[string]string{}, Commands: map[string]string{}}
	for _, name := range envNames {
		value, ok := os.LookupEnv(name)
		if !ok || value == "" {
			continue
		}
		if slices.Contains(envHidden, name) {
			value = "set"
		}
		f.Env[name] = value
	}
	for _, name := range append(slices.Clone(fileNames[f.OS]), ccidLists...) {
		f.readFile(name)
	}
	lines := commandLines[f.OS]
	if f.wsl() > 0 {
		lines = append(slices.Clone(lines), commandLines["wsl"]...)
	}
	for _, line := range lines {
		f.run(ctx, line)
	}
	switch f.OS {
	case "linux":
		f.linuxProcesses()
		f.linuxUSB()
		f.linuxSwap()
	case "windows":
		f.Processes = tasklist(f.Commands["tasklist /fo csv /nh"])
		delete(f.Commands, "tasklist /fo csv /nh") // a report tells of those that matter
	default:
		f.Processes = ps(f.Commands["ps -axo pid=,comm="])
		delete(f.Commands, "ps -axo pid=,comm=")
	}
	return f
}

func (f *Facts) readFile(name string) {
	info, err := os.Stat(name)
	if err != nil {
		return
	}
	if info.IsDir() || slices.Contains(onlyLookedFor, name) {
		f.Files[name] = ""
		return
	}
	file, err := os.Open(name)
	if err != nil {
		return
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxOutput))
	if err == nil {
		f.Files[name] = string(b)
	}
}

// run runs a command line and keeps what it prints. One that fails has printed
// nothing that counts, unless it printed something.
func (f *Facts) run(ctx context.Context, line string) {
	words := strings.Fields(line)
	if strings.HasPrefix(line, `C:\`) {
		i := strings.LastIndex(line, " ")
		words = []string{line[:i], line[i+1:]}
	}
	program, err := lookPath(words[0])
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, words[1:]...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if out = bytes.TrimSpace(out); err == nil || len(out) > 0 {
		f.Commands[line] = strings.ReplaceAll(string(out[:min(len(out), maxOutput)]), "\x00", "")
	}
}

// lookPath also looks where only root does: pcscd is in sbin.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || runtime.GOOS == "windows" {
		return path, err
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}

// libraries are pieces of names of what uses tokens.
var libraries = []string{"libpcsclite", "opensc-pkcs11", "libsc-hsm-pkcs11", "onepin-opensc-pkcs11"}

// ofInterest tells the programs that knownHolders has.
func ofInterest(name string) bool {
	return slices.ContainsFunc(knownHolders, func(h holder) bool { return strings.EqualFold(strings.TrimSuffix(name, ".exe"), h.program) })
}

// linuxProcesses finds who uses tokens: by name, and by what is mapped into
// those that this user may look into.
func (f *Facts) linuxProcesses() {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	self := strconv.Itoa(os.Getpid())
	for _, dir := range dirs {
		if filepath.Base(dir) == self {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has ended
		}
		p := Process{Name: strings.TrimSpace(string(comm))}
		p.PID, _ = strconv.Atoi(filepath.Base(dir))
		maps, _ := os.ReadFile(filepath.Join(dir, "maps"))
		for _, library := range libraries {
			if bytes.Contains(maps, []byte(library)) {
				p.Uses = append(p.Uses, library)
			}
		}
		for _, h := range knownHolders {
			if len(h.program) > maxComm && p.Name == h.program[:maxComm] {
				p.Name = h.program
			}
		}
		if len(p.Uses) > 0 || ofInterest(p.Name) {
			f.Processes = append(f.Processes, p)
		}
	}
}

// maxComm is how much of a program's name Linux keeps.
const maxComm = 15

// linuxUSB finds USB devices with a smart card interface, class 0b.
func (f *Facts) linuxUSB() {
	interfaces, _ := filepath.Glob("/sys/bus/usb/devices/*/bInterfaceClass")
	for _, name := range interfaces {
		if class, err := os.ReadFile(name); err != nil || strings.TrimSpace(string(class)) != "0b" {
			continue
		}
		dir := filepath.Dir(name)
		device, _, _ := strings.Cut(filepath.Base(dir), ":")
		attribute := func(a string) string {
			b, _ := os.ReadFile(filepath.Join(filepath.Dir(dir), device, a))
			return strings.TrimSpace(string(b))
		}
		f.USB = append(f.USB, USBDevice{ID: attribute("idVendor") + ":" + attribute("idProduct"), Name: attribute("product")})
	}
}

// linuxSwap looks whether the devices of swap areas are encrypted.
func (f *Facts) linuxSwap() {
	for _, line := range strings.Split(f.Files["/proc/swaps"], "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && strings.HasPrefix(fields[0], "/dev/") {
			f.readFile("/sys/block/" + filepath.Base(fields[0]) + "/dm/uuid")
		}
	}
}

// ps reads lines of a process number and a program.
func ps(out string) []Process {
	var list []Process
	for _, line := range strings.Split(out, "\n") {
		pid, program, ok := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(pid)
		if name := filepath.Base(strings.TrimSpace(program)); ok && err == nil && ofInterest(name) {
			list = append(list, Process{PID: n, Name: name})
		}
	}
	return list
}

// tasklist reads `tasklist /fo csv /nh`: "name","pid",…
func tasklist(out string) []Process {
	var list []Process
	for _, line := range strings.Split(out, "\n") {
		fields := strings.Split(strings.TrimSpace(line), `","`)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.Atoi(fields[1])
		if name := strings.TrimPrefix(fields[0], `"`); err == nil && ofInterest(name) {
			list = append(list, Process{PID: n, Name: name})
		}
	}
	return list
}
