package doctor

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// service looks at the PC/SC service.
func service(f *Facts) []Finding {
	one := func(code, what, do string) []Finding { return []Finding{{Blocks, code, what, do, ""}} }
	switch f.PCSC {
	case PCSCNotBuilt:
		return one("built-without-pcsc", "this hsmbackup was built without PC/SC: it works on files and software tokens only", "CGO_ENABLED=1 go build ./cmd/hsmbackup, with gcc and libpcsclite-dev installed")
	case PCSCDenied:
		if f.exists(polkitPCSC) || strings.Contains(f.Commands["pcscd --version"], "polkit") {
			session := "this user"
			if f.remote() {
				session = "a session that is not at the computer itself, as over ssh,"
			}
			return one("pcsc-denied", fmt.Sprintf("pcscd runs, but polkit does not let %s use it", session), polkitRule)
		}
		return one("pcsc-denied", "the PC/SC service denies access to this user", "sudo hsmbackup doctor, to see whether it is only this user")
	case PCSCNone:
		return noService(f)
	case PCSCFails:
		return one("pcsc-fails", "the PC/SC service does not answer as it should: "+f.Failure, f.restart())
	}
	return nil
}

const polkitPCSC = "/usr/share/polkit-1/actions/org.debian.pcsc-lite.policy"

// polkitRule lets the members of a group use pcscd from any session.
const polkitRule = `echo 'polkit.addRule(function(a, s) { if (a.id.indexOf("org.debian.pcsc-lite.") == 0 && s.user == "'$USER'") return "yes"; })' | sudo tee /etc/polkit-1/rules.d/40-pcsc.rules`

// remote tells a session that is not at the computer itself.
func (f *Facts) remote() bool {
	return f.Env["SSH_CONNECTION"] != "" || strings.Contains(f.Commands["loginctl show-session self -p Remote"], "Remote=yes")
}

func noService(f *Facts) []Finding {
	one := func(code, what, do string) []Finding { return []Finding{{Blocks, code, what, do, ""}} }
	switch {
	case f.OS == "windows":
		return one("pcsc-stopped", "the service Smart Card (SCardSvr) is not running; Windows starts it when there is a reader", "plug in the token, then, as administrator: sc.exe config SCardSvr start= auto & sc.exe start SCardSvr")
	case f.OS == "darwin":
		return one("pcsc-stopped", "the system's PC/SC service is not running; macOS starts it when there is a reader", "plug in the token, then: hsmbackup doctor")
	case f.inContainer() && !f.exists(pcscdSocket) && len(f.USB) == 0:
		return one("in-container", "this is a container, and pcscd of the computer around it cannot be reached", "start the container with -v /run/pcscd:/run/pcscd")
	case f.wsl() == 1:
		return one("wsl-1", "WSL 1 has no USB: tokens cannot be reached from it", "in PowerShell: wsl --set-version "+f.distribution()+" 2")
	case f.Commands["pcscd --version"] == "" && !f.exists("/usr/sbin/pcscd"):
		return one("pcscd-missing", "pcscd is not installed", f.install())
	}
	return one("pcscd-stopped", "pcscd is installed, but not running", f.start())
}

const pcscdSocket = "/run/pcscd/pcscd.comm"

func (f *Facts) distribution() string {
	if name := f.Env["WSL_DISTRO_NAME"]; name != "" {
		return name
	}
	return "Ubuntu"
}

// install is the line that installs pcscd and the driver for USB readers.
func (f *Facts) install() string {
	switch {
	case f.like("debian", "ubuntu"):
		return "sudo apt install pcscd libccid"
	case f.like("fedora", "rhel", "centos"):
		return "sudo dnf install pcsc-lite pcsc-lite-ccid"
	case f.like("suse", "opensuse"):
		return "sudo zypper install pcsc-lite pcsc-ccid"
	case f.like("arch"):
		return "sudo pacman -S pcsclite ccid"
	case f.like("alpine"):
		return "sudo apk add pcsc-lite ccid"
	case f.OS == "freebsd":
		return "sudo pkg install pcsc-lite libccid"
	}
	return "install pcscd (pcsc-lite) and libccid (ccid) with the system's package manager"
}

// start is the line that starts the service.
func (f *Facts) start() string {
	switch {
	case f.systemd():
		return "sudo systemctl enable --now pcscd.socket"
	case f.like("alpine"):
		return "sudo rc-service pcscd start"
	case f.OS == "freebsd":
		return "sudo sysrc pcscd_enable=YES && sudo service pcscd start"
	}
	return "sudo pcscd"
}

func (f *Facts) restart() string {
	switch {
	case f.OS == "windows":
		return "as administrator: sc.exe stop SCardSvr & sc.exe start SCardSvr"
	case f.OS == "darwin":
		return "pull the token, plug it in again, then: hsmbackup doctor"
	case f.systemd():
		return "sudo systemctl restart pcscd"
	case f.like("alpine"):
		return "sudo rc-service pcscd restart"
	case f.OS == "freebsd":
		return "sudo service pcscd restart"
	}
	return "sudo pkill -x pcscd; sudo pcscd"
}

// readers looks at the readers and at what is in them.
func readers(f *Facts) []Finding {
	if f.PCSC != PCSCFine && f.PCSC != PCSCNotAsked {
		return nil
	}
	if len(f.Readers) == 0 {
		return noReader(f)
	}
	var list []Finding
	tokens := 0
	for _, r := range f.Readers {
		if r.State == HasToken {
			tokens++
		}
	}
	// Of what is not a token nothing stands in the way where there is one.
	severity := Blocks
	if tokens > 0 {
		severity = Note
	}
	for _, r := range f.Readers {
		switch r.State {
		case OtherCard:
			list = append(list, Finding{severity, "other-card", fmt.Sprintf("the card in %s is no SmartCard-HSM", r.Name), "plug in the token; a reader for cards may stay as it is", ""})
		case Held:
			list = append(list, Finding{severity, "token-held", fmt.Sprintf("another program holds the token in %s: %s", r.Name, r.Why), release(f), ""})
		case NoExtended:
			list = append(list, Finding{severity, "no-extended", fmt.Sprintf("%s carries no extended APDUs, which a SmartCard-HSM needs", r.Name), "use another reader or the maker's driver for this one; the Nitrokey HSM has its reader built in", "https://github.com/OpenSC/OpenSC/issues/715"})
		case Fails:
			list = append(list, Finding{severity, "token-mute", fmt.Sprintf("the token in %s cannot be spoken to: %s", r.Name, r.Why), "pull it, wait a moment, plug it in again, then: hsmbackup doctor", ""})
		}
		list = append(list, carries(r)...)
	}
	if tokens == 0 && len(list) == 0 {
		list = append(list, Finding{Blocks, "no-token", fmt.Sprintf("no token is in a reader (%s)", strings.Join(names(f.Readers), ", ")), "plug in the token, then: hsmbackup doctor", ""})
	}
	return list
}

func names(list []Reader) []string {
	var names []string
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

// carries says of a reader how long a command may be.
func carries(r Reader) []Finding {
	reach := r.Reach
	switch {
	case reach == nil || reach.Whole:
		return nil
	case reach.Longest == 0:
		return []Finding{{Note, "reader-unknown", fmt.Sprintf("how long a command %s carries could not be found out: %s", r.Name, reach.Unknown), "nothing: hsmbackup stays below what readers are known to carry", ""}}
	case reach.Cut:
		return []Finding{{Warning, "reader-cuts", fmt.Sprintf("%s cuts commands longer than %d bytes without a word", r.Name, reach.Longest), "restore with hsmbackup, which stays below; sc-hsm-tool up to 0.23 cannot bring back RSA-4096 keys through it", "https://github.com/OpenSC/OpenSC/issues/2514"}}
	}
	return []Finding{{Note, "reader-limit", fmt.Sprintf("%s refuses commands longer than %d bytes", r.Name, reach.Longest), "nothing: hsmbackup stays below; of other tools restore RSA-4096 keys with OpenSC 0.24 or later", ""}}
}

// noReader finds out why a service without readers sees none.
func noReader(f *Facts) []Finding {
	one := func(code, what, do string) []Finding { return []Finding{{Blocks, code, what, do, ""}} }
	switch {
	case f.OS == "windows" && strings.HasPrefix(strings.ToUpper(f.Env["SESSIONNAME"]), "RDP-"):
		return one("remote-session", "this is a remote desktop session: Windows shows the readers of the computer that you sit at, not those of this one", "plug the token into the computer that you sit at and tick Smart cards under Local Resources, or log in at this one")
	case f.OS == "windows" && attachedToWSL(f) != "":
		return one("in-wsl", "the token is handed over to WSL, so Windows does not see it", "usbipd detach --busid "+attachedToWSL(f))
	case f.OS == "linux" && len(f.USB) == 0 && f.wsl() == 2:
		return usbip(f)
	case f.OS == "linux" && len(f.USB) == 0 && f.inContainer():
		return one("in-container", "this is a container, and no USB device with a smart card interface is seen from it", "start the container with -v /run/pcscd:/run/pcscd, and without a pcscd of its own")
	case f.OS != "linux" || len(f.USB) == 0:
		return one("no-reader", "no reader is plugged in", "plug in the token, then: hsmbackup doctor")
	}
	d := f.USB[0]
	list := ccidList(f)
	switch {
	case list == "":
		return one("ccid-missing", fmt.Sprintf("%s (%s) is plugged in, but pcscd has no driver for USB readers", d.Name, d.ID), f.install())
	case !supports(list, d.ID):
		return one("ccid-unknown", fmt.Sprintf("%s (%s) is plugged in, but libccid %s does not know it", d.Name, d.ID, f.CCID()), "install a later libccid; https://ccid.apdu.fr lists what each version knows")
	}
	return one("reader-unseen", fmt.Sprintf("%s (%s) is plugged in, and pcscd does not show it", d.Name, d.ID), f.restart())
}

func ccidList(f *Facts) string {
	for _, name := range ccidLists {
		if s := f.Files[name]; s != "" {
			return s
		}
	}
	return ""
}

// supports tells whether the list of a driver has a device: it has all vendors,
// then all products, in the same order.
func supports(plist, id string) bool {
	vendor, product, _ := strings.Cut(id, ":")
	vendors, products := plistArray(plist, "ifdVendorID"), plistArray(plist, "ifdProductID")
	for i := range min(len(vendors), len(products)) {
		if strings.EqualFold(vendors[i], "0x"+vendor) && strings.EqualFold(products[i], "0x"+product) {
			return true
		}
	}
	return false
}

var plistString = regexp.MustCompile(`<string>([^<]*)</string>`)

func plistArray(plist, key string) []string {
	_, rest, ok := strings.Cut(plist, "<key>"+key+"</key>")
	if !ok {
		return nil
	}
	array, _, _ := strings.Cut(rest, "</array>")
	var list []string
	for _, m := range plistString.FindAllStringSubmatch(array, -1) {
		list = append(list, m[1])
	}
	return list
}

// usbip says how to hand a token over from Windows, by the version of usbipd:
// 4.0 took the command "wsl" away.
func usbip(f *Facts) []Finding {
	v := f.USBIPD()
	what := "no token is attached to WSL"
	bus := "BUSID"
	if out := f.usbipdList(); out != "" {
		if id := busOf(out); id != "" {
			bus = id
		}
	}
	do := ""
	switch major, _, _ := strings.Cut(v, "."); {
	case v == "":
		what += ", and usbipd was not found in Windows"
		do = "in PowerShell as administrator: winget install usbipd; usbipd list; usbipd bind --busid " + bus + "; usbipd attach --wsl --busid " + bus
	case atLeast(major, 4):
		do = fmt.Sprintf("in PowerShell as administrator: usbipd bind --busid %s; then: usbipd attach --wsl --busid %s", bus, bus)
		if bus == "BUSID" {
			do = "in PowerShell: usbipd list; " + strings.TrimPrefix(do, "in PowerShell ")
		}
	default:
		what += fmt.Sprintf(" (usbipd %s)", v)
		do = "in PowerShell as administrator: usbipd wsl attach --busid " + bus
		if bus == "BUSID" {
			do = "in PowerShell as administrator: usbipd wsl list; usbipd wsl attach --busid BUSID"
		}
	}
	return []Finding{{Blocks, "no-usb", what, do, "https://github.com/dorssel/usbipd-win/wiki/WSL-support"}}
}

func atLeast(text string, n int) bool {
	v, err := strconv.Atoi(text)
	return err == nil && v >= n
}

func (f *Facts) usbipdList() string {
	for _, c := range []string{"usbipd.exe list", "usbipd list"} {
		if out := f.Commands[c]; out != "" {
			return out
		}
	}
	return ""
}

// usbLine is a line of `usbipd list`: bus, ID, name, state.
var usbLine = regexp.MustCompile(`(?m)^(\d+-\d+)\s+([0-9a-fA-F]{4}:[0-9a-fA-F]{4})\s+(.*?)\s{2,}(\S.*?)\s*$`)

// busOf finds the smart card reader in the output of `usbipd list`.
func busOf(list string) string {
	for _, m := range usbLine.FindAllStringSubmatch(list, -1) {
		if isToken(m[2], m[3]) {
			return m[1]
		}
	}
	return ""
}

func attachedToWSL(f *Facts) string {
	for _, m := range usbLine.FindAllStringSubmatch(f.usbipdList(), -1) {
		if isToken(m[2], m[3]) && strings.HasPrefix(m[4], "Attached") {
			return m[1]
		}
	}
	return ""
}

// isToken tells the Nitrokey HSM, and what Windows calls a smart card reader.
func isToken(id, name string) bool {
	return strings.EqualFold(id, "20a0:4230") || strings.Contains(strings.ToLower(strings.ReplaceAll(name, " ", "")), "smartcard")
}

// holder is a program that is known to use tokens, and how to make it let go.
type holder struct {
	program, what, do string
}

var knownHolders = []holder{
	{"scdaemon", "GnuPG's scdaemon takes readers for itself", "gpgconf --kill scdaemon; to keep it off: echo disable-ccid >> ~/.gnupg/scdaemon.conf; echo pcsc-shared >> ~/.gnupg/scdaemon.conf"},
	{"ssh-pkcs11-helper", "ssh-agent has the keys of a token loaded, and logs other programs out when it uses them", "ssh-add -e opensc-pkcs11.so"},
	{"WinCryptSSHAgent", "WinCryptSSHAgent uses the token, and may ask for its PIN in between", "taskkill /im WinCryptSSHAgent.exe, or Quit in its tray icon"},
	{"pcsc_scan", "pcsc_scan watches the readers", "end it with Ctrl-C"},
	{"p11-kit-server", "p11-kit serves the token to other programs or computers", "pkill -x p11-kit-server"},
	{"opensc-notify", "opensc-notify watches the readers", "pkill -x opensc-notify"},
}

// holders names the programs that may get in between.
func holders(f *Facts) []Finding {
	var list []Finding
	var known []int
	for _, h := range knownHolders {
		p := f.runs(h.program)
		if p == nil {
			continue
		}
		known = append(known, p.PID)
		severity := Note
		if h.program == "scdaemon" {
			severity = Warning
		}
		list = append(list, Finding{severity, "holder", fmt.Sprintf("%s (%s, process %d)", h.what, p.Name, p.PID), h.do, ""})
	}
	for _, p := range f.Processes {
		if len(p.Uses) == 0 || slices.Contains(known, p.PID) || p.Name == "pcscd" {
			continue
		}
		list = append(list, Finding{Note, "holder", fmt.Sprintf("%s (process %d) has %s loaded and may use the token", p.Name, p.PID, strings.Join(p.Uses, " and ")), fmt.Sprintf("end it if it gets in between: kill %d", p.PID), ""})
	}
	return list
}

// release is the line that makes whoever holds the token let go.
func release(f *Facts) string {
	for _, h := range knownHolders {
		if f.runs(h.program) != nil {
			return h.do
		}
	}
	for _, p := range f.Processes {
		if len(p.Uses) > 0 && p.Name != "pcscd" {
			return fmt.Sprintf("kill %d, which is %s", p.PID, p.Name)
		}
	}
	switch f.OS {
	case "windows":
		return "end the programs that use the token, or: " + f.restart()
	case "linux", "freebsd":
		return "sudo lsof " + pcscdSocket + " shows who it may be; or: " + f.restart()
	}
	return "end the programs that use the token, or " + f.restart()
}

// openSC says whether it is there; its known faults are told by who knows them.
func openSC(f *Facts) []Finding {
	if f.OpenSC() != "" {
		return nil
	}
	do := "install OpenSC: https://github.com/OpenSC/OpenSC/releases"
	switch {
	case f.like("debian", "ubuntu"):
		do = "sudo apt install opensc"
	case f.like("fedora", "rhel", "centos"):
		do = "sudo dnf install opensc"
	case f.like("suse", "opensuse"):
		do = "sudo zypper install opensc"
	case f.like("arch"):
		do = "sudo pacman -S opensc"
	case f.like("alpine"):
		do = "sudo apk add opensc"
	case f.OS == "freebsd":
		do = "sudo pkg install opensc"
	case f.OS == "windows":
		do = "winget install OpenSC.OpenSC"
	case f.OS == "darwin":
		do = "brew install --cask opensc"
	}
	return []Finding{{Note, "no-opensc", "OpenSC was not found; backup and restore do without it, making keys (pkcs11-tool) and SSH need it", do, ""}}
}

// catalogPlace looks at where the catalog is, or will be.
func catalogPlace(f *Facts) []Finding {
	c := f.Catalog
	var list []Finding
	if c.Path == "" {
		return []Finding{{Blocks, "no-catalog-place", "there is no data directory to keep the catalog in", "export HSMBACKUP_CATALOG=/path/to/catalog.db", ""}}
	}
	if c.Problem != "" {
		do := c.Remedy
		if do == "" {
			do = "hsmbackup check"
		}
		list = append(list, Finding{Blocks, "catalog", c.Problem, do, ""})
	}
	if !c.Writable {
		list = append(list, Finding{Blocks, "catalog-read-only", fmt.Sprintf("nothing can be written at %s, where the catalog belongs", c.Path), "export HSMBACKUP_CATALOG=/path/to/catalog.db, at a place that can be written", ""})
	}
	const move = "export HSMBACKUP_CATALOG=/path/to/catalog.db, on a disk of this computer; take copies to the network with cp"
	switch kind := f.fileSystem(c.Real); {
	case networkFS(kind) == "":
	case strings.HasPrefix(kind, "nfs"):
		list = append(list, Finding{Warning, "catalog-network", fmt.Sprintf("the catalog is on a network file system (%s): its locks hold only if the server keeps them", kind), move, ""})
	default:
		list = append(list, Finding{Blocks, "catalog-network", fmt.Sprintf("the catalog is on %s (%s), which does not lock and map files as a database needs", networkFS(kind), kind), move, ""})
	}
	if s := synced(c.Real); s != "" {
		list = append(list, Finding{Warning, "catalog-synced", fmt.Sprintf("the catalog is in a folder that %s copies while it is being written", s), move, ""})
	}
	return list
}

// networkFS names file systems that do not keep a database safe, by the name
// that the system has for them; "" is any other.
func networkFS(kind string) string {
	switch kind {
	case "nfs", "nfs4", "nfs3":
		return "a network file system"
	case "cifs", "smb3", "smbfs", "smb2", "afpfs", "ncpfs", "afs", "davfs", "webdav", "ceph", "glusterfs", "fuse.glusterfs", "fuse.davfs2", "unc", "net":
		return "a network file system"
	case "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "macfuse", "osxfuse":
		return "a file system of a remote place"
	case "9p", "drvfs":
		return "a disk of the computer around this one"
	case "vboxsf", "fuse.vmhgfs-fuse", "prl_fs":
		return "a folder of the computer around this one"
	}
	return ""
}

// fileSystem is the kind of file system that a folder is on.
func (f *Facts) fileSystem(dir string) string {
	kind, longest := "", -1
	take := func(mount, k string) {
		mount = strings.TrimSuffix(mount, "/")
		if (dir == mount || strings.HasPrefix(dir, mount+"/")) && len(mount) >= longest {
			kind, longest = k, len(mount)
		}
	}
	switch f.OS {
	case "linux":
		for _, line := range strings.Split(f.Files["/proc/self/mountinfo"], "\n") {
			left, right, ok := strings.Cut(line, " - ")
			fields, kinds := strings.Fields(left), strings.Fields(right)
			if ok && len(fields) > 4 && len(kinds) > 0 {
				k := kinds[0]
				if k == "9p" && strings.Contains(right, "aname=drvfs") {
					k = "drvfs"
				}
				take(unescape(fields[4]), k)
			}
		}
	case "windows":
		slashed := strings.ReplaceAll(dir, `\`, "/")
		if strings.HasPrefix(slashed, "//") && !strings.HasPrefix(slashed, "//?/") && !strings.HasPrefix(slashed, "//./") {
			return "unc"
		}
		// A line of `net use`: state, drive, \\server\share.
		for _, line := range strings.Split(f.Commands["net use"], "\n") {
			fields := strings.Fields(line)
			for i, field := range fields {
				if len(field) == 2 && field[1] == ':' && i+1 < len(fields) && strings.HasPrefix(fields[i+1], `\\`) && len(dir) > 1 && strings.EqualFold(dir[:2], field) {
					return "net"
				}
			}
		}
	default: // DEVICE on MOUNT (KIND, …)
		for _, m := range mountLine.FindAllStringSubmatch(f.Commands["mount"], -1) {
			take(m[1], m[2])
		}
	}
	return kind
}

var mountLine = regexp.MustCompile(`(?m)^.* on (/.*?) \(([^,)]+)`)

// unescape takes the octal forms out of a path in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// synced names the program that keeps a folder in step with other computers.
func synced(dir string) string {
	for _, part := range strings.Split(strings.ReplaceAll(dir, `\`, "/"), "/") {
		for _, name := range []string{"Dropbox", "OneDrive", "Google Drive", "GoogleDrive", "Nextcloud", "ownCloud", "Mobile Documents", "Syncthing"} {
			if part == name || strings.HasPrefix(part, name+" - ") {
				if name == "Mobile Documents" {
					return "iCloud"
				}
				return name
			}
		}
	}
	return ""
}

// memory looks at ways in which what is in memory gets onto a disk.
func memory(f *Facts) []Finding {
	const secrets = "matters only while shares are opened on this computer: secrets are kept in locked pages, but not all copies that libraries make are"
	var list []Finding
	switch f.OS {
	case "linux":
		if open := openSwap(f); len(open) > 0 {
			list = append(list, Finding{Warning, "swap", fmt.Sprintf("swap is not encrypted (%s): it %s", strings.Join(open, ", "), secrets), "sudo swapoff -a, until the shares are put away again", ""})
			if slices.Contains(strings.Fields(f.Files["/sys/power/state"]), "disk") {
				list = append(list, Finding{Note, "hibernation", "this computer can hibernate, which writes all of its memory to that swap", "sudo systemctl mask hibernate.target hybrid-sleep.target", ""})
			}
		}
		if pattern := strings.TrimSpace(f.Files["/proc/sys/kernel/core_pattern"]); strings.HasPrefix(pattern, "|") {
			list = append(list, Finding{Note, "core-dumps", fmt.Sprintf("memory of programs that crash is kept (%s); hsmbackup keeps itself out, sc-hsm-tool does not", path.Base(strings.Fields(pattern)[0][1:])), "ulimit -c 0, in the shell that sc-hsm-tool is run from", ""})
		}
	case "windows":
		if f.exists(`C:\hiberfil.sys`) {
			list = append(list, Finding{Note, "hibernation", "this computer can hibernate, which writes all of its memory to a file: that " + secrets, "as administrator: powercfg /hibernate off, if the disk is not encrypted (BitLocker)", ""})
		}
	case "darwin":
		if strings.Contains(f.Commands["fdesetup status"], "FileVault is Off") {
			list = append(list, Finding{Warning, "disk-open", "FileVault is off, so that what is written while the computer sleeps is not encrypted: it " + secrets, "sudo fdesetup enable", ""})
		}
	}
	return list
}

// openSwap gives the swap areas of Linux that are neither in memory nor
// encrypted.
func openSwap(f *Facts) []string {
	var list []string
	for i, line := range strings.Split(f.Files["/proc/swaps"], "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) == 0 {
			continue
		}
		name := unescape(fields[0])
		base := path.Base(name)
		if strings.HasPrefix(base, "zram") || strings.HasPrefix(f.Files["/sys/block/"+base+"/dm/uuid"], "CRYPT-") {
			continue
		}
		list = append(list, name)
	}
	return list
}

// clock compares the clock with times that have been.
func clock(f *Facts) []Finding {
	do := "sudo timedatectl set-ntp true"
	switch f.OS {
	case "windows":
		do = "as administrator: w32tm /resync"
	case "darwin":
		do = "sudo sntp -sS time.apple.com"
	case "freebsd":
		do = "sudo ntpdate pool.ntp.org"
	}
	const slack = 10 * time.Minute
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") + " UTC" }
	switch {
	case !f.Catalog.Newest.IsZero() && f.Now.Add(slack).Before(f.Catalog.Newest):
		return []Finding{{Warning, "clock", fmt.Sprintf("the clock says %s, and the catalog has an entry of %s: ages would be wrong", day(f.Now), day(f.Catalog.Newest)), do, ""}}
	case !f.Built.IsZero() && f.Now.Add(24*time.Hour).Before(f.Built):
		return []Finding{{Warning, "clock", fmt.Sprintf("the clock says %s, and this program was made on %s", day(f.Now), day(f.Built)), do, ""}}
	}
	return nil
}
