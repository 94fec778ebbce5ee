package doctor

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Facts are what was seen of a machine, as it was seen. Files and outputs are
// kept as text, so that a report shows them and a test replays them.
type Facts struct {
	// OS is Go's name of it: linux, darwin, windows, freebsd.
	OS   string `json:"os"`
	Root bool   `json:"root"`
	// Built is when this program was, zero if it does not know.
	Now   time.Time `json:"now"`
	Built time.Time `json:"built,omitzero"`
	// Env has the variables of envNames that are set.
	Env map[string]string `json:"env"`
	// Files has what the files of fileNames hold, those that exist; of the
	// names that end in a slash that they exist.
	Files map[string]string `json:"files"`
	// Commands has what programs printed, by the command line in commandLines;
	// those that could not be run are missing.
	Commands map[string]string `json:"commands"`
	// Processes are those of interest.
	Processes []Process `json:"processes"`
	// USB are the devices with a smart card interface, on Linux.
	USB []USBDevice `json:"usb"`

	PCSC PCSC `json:"pcsc"`
	// Failure is how the service failed, of PCSCFails.
	Failure string   `json:"failure,omitempty"`
	Readers []Reader `json:"readers"`
	Catalog Catalog  `json:"catalog"`
}

// Process is a program that runs.
type Process struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
	// Uses are libraries of PC/SC and PKCS#11 that it has mapped, where that
	// can be seen.
	Uses []string `json:"uses,omitempty"`
}

// USBDevice is one with a smart card interface.
type USBDevice struct {
	ID   string `json:"id"` // vendor:product, "20a0:4230"
	Name string `json:"name"`
}

// PCSC says how the service answered.
type PCSC string

// What the service may answer.
const (
	PCSCFine     PCSC = "ok"
	PCSCNone     PCSC = "no service"
	PCSCDenied   PCSC = "denied"
	PCSCNotBuilt PCSC = "not built"
	PCSCFails    PCSC = "fails" // Facts.Failure says how
	// PCSCNotAsked: a software token was named, which needs no service.
	PCSCNotAsked PCSC = "not asked"
)

// Reader is a reader and what was found out about the token in it.
type Reader struct {
	Name string `json:"name"`
	// ATR is hex, empty without a token.
	ATR string `json:"atr,omitempty"`
	// State is "empty", "token", "other card", "held", "no extended" or
	// "error".
	State string `json:"state"`
	// Why it is so, of "held" and "error".
	Why      string `json:"why,omitempty"`
	Serial   string `json:"serial,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	// Software: the token says that it is one.
	Software bool   `json:"software,omitempty"`
	Reach    *Reach `json:"reach,omitempty"`
}

// States of a reader.
const (
	Empty      = "empty"
	HasToken   = "token"
	OtherCard  = "other card"
	Held       = "held"
	NoExtended = "no extended"
	Fails      = "error"
)

// Catalog is what was seen of the catalog's place.
type Catalog struct {
	Path string `json:"path"`
	// Exists; Problem is why it cannot be opened, Remedy what to do then.
	Exists  bool   `json:"exists"`
	Problem string `json:"problem,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	// Writable tells whether a file can be made in its folder, or in the
	// nearest folder above that exists.
	Writable bool `json:"writable"`
	// Real is the absolute path of that folder, without symbolic links.
	Real string `json:"real"`
	// Newest is the time of its newest entry.
	Newest time.Time `json:"newest,omitzero"`
}

// kernel is the release of a Linux kernel.
func (f *Facts) kernel() string { return strings.TrimSpace(f.Files["/proc/sys/kernel/osrelease"]) }

// wsl tells Linux inside Windows; of WSL 1, which has no USB, it gives 1.
func (f *Facts) wsl() int {
	release := strings.ToLower(f.kernel())
	switch {
	case f.OS != "linux" || !strings.Contains(release, "microsoft"):
		return 0
	case strings.Contains(release, "wsl2") || kernelMajor(release) >= 5:
		return 2
	}
	return 1
}

func kernelMajor(release string) int {
	major, _, _ := strings.Cut(release, ".")
	n, _ := strconv.Atoi(major)
	return n
}

// exists tells whether a file was there.
func (f *Facts) exists(name string) bool { _, ok := f.Files[name]; return ok }

// systemd tells whether it runs this system.
func (f *Facts) systemd() bool { return f.exists("/run/systemd/system/") }

// inContainer tells a container of Docker or Podman.
func (f *Facts) inContainer() bool { return f.exists("/.dockerenv") || f.exists("/run/.containerenv") }

// like gives the words of os-release that say which distribution this is.
func (f *Facts) like(names ...string) bool {
	for _, line := range strings.Split(f.Files["/etc/os-release"], "\n") {
		key, value, _ := strings.Cut(line, "=")
		if key != "ID" && key != "ID_LIKE" {
			continue
		}
		for _, word := range strings.Fields(strings.Trim(value, `"'`)) {
			for _, n := range names {
				if word == n {
					return true
				}
			}
		}
	}
	return false
}

// System names the system for people: "Debian GNU/Linux 12 (bookworm), WSL 2".
func (f *Facts) System() string {
	name := f.OS
	switch f.OS {
	case "linux":
		for _, line := range strings.Split(f.Files["/etc/os-release"], "\n") {
			if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				name = strings.Trim(value, `"'`)
			}
		}
	case "darwin":
		name = strings.TrimSpace("macOS " + f.Commands["sw_vers -productVersion"])
	case "windows":
		name = strings.TrimSpace(f.Commands["cmd /c ver"])
		if name == "" {
			name = "Windows"
		}
	}
	if n := f.wsl(); n > 0 {
		name += ", WSL " + strconv.Itoa(n)
	}
	return name
}

var versionNumber = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// OpenSC is its version, empty if it is not installed.
func (f *Facts) OpenSC() string {
	for _, c := range openSCCommands {
		if out, ok := f.Commands[c]; ok && strings.HasPrefix(out, "OpenSC ") {
			return versionNumber.FindString(out)
		}
	}
	return ""
}

// CCID is the version of libccid, empty if it is not seen.
func (f *Facts) CCID() string {
	for _, name := range ccidLists {
		if s := regexp.MustCompile(`(?s)CFBundleShortVersionString</key>\s*<string>([^<]+)<`).FindStringSubmatch(f.Files[name]); s != nil {
			return s[1]
		}
	}
	return ""
}

// USBIPD is the version of usbipd-win, empty if it is not seen.
func (f *Facts) USBIPD() string {
	for _, c := range usbipdCommands {
		if v := versionNumber.FindString(f.Commands[c]); v != "" {
			return v
		}
	}
	return ""
}

func (f *Facts) runs(name string) *Process {
	for i, p := range f.Processes {
		if strings.EqualFold(strings.TrimSuffix(p.Name, ".exe"), name) {
			return &f.Processes[i]
		}
	}
	return nil
}
