package doctor

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Machines as they were seen. Each test takes one and changes what it is about.

const (
	debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n"
	ubuntu = "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nID=ubuntu\nID_LIKE=debian\n"
	fedora = "PRETTY_NAME=\"Fedora Linux 42 (Workstation Edition)\"\nID=fedora\n"
	suse   = "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n"
	alpine = "ID=alpine\n"

	pcscd19 = "pcsc-lite version 1.9.9.\nEnabled features: Linux x86_64-pc-linux-gnu libsystemd serial usb libudev"
	pcscd20 = "pcsc-lite version 2.3.0.\nEnabled features: Linux x86_64 libsystemd serial usb libudev polkit"

	ext4 = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"

	ccid152 = `<key>CFBundleShortVersionString</key>
	<string>1.5.2</string>
	<key>ifdVendorID</key>
	<array>
		<string>0x08E6</string>
		<string>0x20A0</string>
	</array>
	<key>ifdProductID</key>
	<array>
		<string>0x2202</string>
		<string>0x4230</string>
	</array>`

	// usbipd 4.x and 3.x, as the notebook of an admin has them.
	usbipdList4 = `Connected:
BUSID  VID:PID    DEVICE                                                        STATE
1-7    20a0:4230  Microsoft Usbccid Smartcard Reader (WUDF)                     Not shared
1-8    8087:0aaa  Intel(R) Wireless Bluetooth(R)                                Not shared
3-1    046d:c52b  Logitech USB Input Device, USB Input Device                   Not shared
`
	usbipdAttached = `Connected:
BUSID  VID:PID    DEVICE                                                        STATE
1-7    20a0:4230  Microsoft Usbccid Smartcard Reader (WUDF)                     Attached
1-8    8087:0aaa  Intel(R) Wireless Bluetooth(R)                                Not shared
`
)

var today = time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)

func machine(os string) *Facts {
	f := &Facts{
		OS: os, Now: today, Built: today.AddDate(0, -1, 0), Env: map[string]string{}, Files: map[string]string{}, Commands: map[string]string{"opensc-tool --info": "OpenSC 0.23.0 [gcc  12.2.0]\nEnabled features: pcsc"},
		PCSC:    PCSCFine,
		Readers: []Reader{{Name: "Nitrokey Nitrokey HSM (DENK02009140000         ) 00 00", ATR: "3bde", State: HasToken, Serial: "DENK0200914", Firmware: "3.6", Reach: &Reach{Longest: 1454, Whole: true}}},
		Catalog: Catalog{Path: "/home/a/.local/share/hsmbackup/catalog.db", Real: "/home/a/.local/share", Writable: true, Exists: true, Newest: today.AddDate(0, 0, -1)},
	}
	return f
}

func linux(release string) *Facts {
	f := machine("linux")
	f.Files["/etc/os-release"] = release
	f.Files["/proc/sys/kernel/osrelease"] = "6.1.0-28-amd64\n"
	f.Files["/proc/self/mountinfo"] = ext4
	f.Files["/run/systemd/system/"] = ""
	f.Files["/proc/swaps"] = "Filename\t\t\t\tType\t\tSize\n"
	f.Files["/proc/sys/kernel/core_pattern"] = "core\n"
	f.Files[ccidLists[0]] = ccid152
	f.Commands["pcscd --version"] = pcscd19
	return f
}

func wsl() *Facts {
	f := linux(ubuntu)
	f.Files["/proc/sys/kernel/osrelease"] = "5.15.153.1-microsoft-standard-WSL2\n"
	f.Env["WSL_DISTRO_NAME"] = "Ubuntu"
	delete(f.Files, "/run/systemd/system/")
	return f
}

func windows() *Facts {
	f := machine("windows")
	f.Env["SESSIONNAME"] = "Console"
	f.Commands = map[string]string{"cmd /c ver": "Microsoft Windows [Version 10.0.22631.4317]", openSCCommands[2]: "OpenSC 0.25.0 [Microsoft 1935]", "usbipd --version": "4.3.0+88.Branch.master", "usbipd list": usbipdList4, "net use": "New connections will be remembered.\n\nStatus       Local     Remote                    Network\n\nOK           Z:        \\\\nas\\backup             Microsoft Windows Network\n"}
	f.Catalog.Path, f.Catalog.Real = `C:\Users\a\AppData\Local\hsmbackup\catalog.db`, `C:\Users\a\AppData\Local`
	return f
}

func mac() *Facts {
	f := machine("darwin")
	f.Commands = map[string]string{"sw_vers -productVersion": "15.1", openSCCommands[1]: "OpenSC 0.26.0 [clang]", "fdesetup status": "FileVault is On.", "mount": "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)\n//a@nas/backup on /Volumes/backup (smbfs, nodev, nosuid, mounted by a)\n"}
	f.Catalog.Path, f.Catalog.Real = "/Users/a/Library/Application Support/hsmbackup/catalog.db", "/Users/a/Library/Application Support"
	return f
}

func with(f *Facts, change func(*Facts)) *Facts {
	change(f)
	return f
}

// seen gives the findings as "severity code: what -> do" lines.
func seen(f *Facts) []string {
	var list []string
	for _, found := range Examine(f) {
		list = append(list, string(found.Severity)+" "+found.Code+": "+found.What+" -> "+found.Do)
	}
	return list
}

func TestNothingInTheWay(t *testing.T) {
	for name, f := range map[string]*Facts{"Debian": linux(debian), "WSL": wsl(), "Windows": windows(), "macOS": mac()} {
		if got := seen(f); len(got) != 0 {
			t.Errorf("%s: %q", name, got)
		}
		if f.System() == f.OS || f.OpenSC() == "" {
			t.Errorf("%s: %q, OpenSC %q", name, f.System(), f.OpenSC())
		}
	}
	if got := wsl().System(); got != "Ubuntu 24.04.1 LTS, WSL 2" {
		t.Errorf("%q", got)
	}
	if f := linux(debian); f.CCID() != "1.5.2" {
		t.Errorf("libccid %q", f.CCID())
	}
}

// Each machine has one thing wrong with it, and one finding says so.
func TestFindings(t *testing.T) {
	service := func(f *Facts, state PCSC) *Facts {
		f.PCSC, f.Readers = state, nil
		return f
	}
	empty := func(f *Facts) *Facts {
		f.Readers = nil
		return f
	}
	reader := func(change func(*Reader)) *Facts {
		f := linux(debian)
		change(&f.Readers[0])
		return f
	}
	nitrokey := []USBDevice{{"20a0:4230", "Nitrokey HSM"}}
	for _, c := range []struct {
		name string
		f    *Facts
		want string
	}{
		{"built without", service(mac(), PCSCNotBuilt), "blocks built-without-pcsc: this hsmbackup was built without PC/SC: it works on files and software tokens only -> CGO_ENABLED=1 go build ./cmd/hsmbackup"},
		{"not installed, Debian", with(service(linux(debian), PCSCNone), func(f *Facts) { delete(f.Commands, "pcscd --version") }), "blocks pcscd-missing: pcscd is not installed -> sudo apt install pcscd libccid"},
		{"not installed, Ubuntu in WSL", with(service(wsl(), PCSCNone), func(f *Facts) { delete(f.Commands, "pcscd --version") }), "-> sudo apt install pcscd libccid"},
		{"not installed, Fedora", with(service(linux(fedora), PCSCNone), func(f *Facts) { delete(f.Commands, "pcscd --version") }), "-> sudo dnf install pcsc-lite pcsc-lite-ccid"},
		{"not installed, openSUSE", with(service(linux(suse), PCSCNone), func(f *Facts) { delete(f.Commands, "pcscd --version") }), "-> sudo zypper install pcsc-lite pcsc-ccid"},
		{"not installed, unknown", with(service(linux("ID=mine"), PCSCNone), func(f *Facts) { delete(f.Commands, "pcscd --version") }), "-> install pcscd (pcsc-lite) and libccid (ccid) with the system's package manager"},
		{"stopped", service(linux(debian), PCSCNone), "blocks pcscd-stopped: pcscd is installed, but not running -> sudo systemctl enable --now pcscd.socket"},
		{"stopped, WSL without systemd", service(wsl(), PCSCNone), "blocks pcscd-stopped: pcscd is installed, but not running -> sudo pcscd"},
		{"stopped, Alpine", with(service(linux(alpine), PCSCNone), func(f *Facts) { delete(f.Files, "/run/systemd/system/") }), "-> sudo rc-service pcscd start"},
		{"WSL 1", with(service(wsl(), PCSCNone), func(f *Facts) { f.Files["/proc/sys/kernel/osrelease"] = "4.4.0-19041-Microsoft" }), "blocks wsl-1: WSL 1 has no USB: tokens cannot be reached from it -> in PowerShell: wsl --set-version Ubuntu 2"},
		{"container", with(service(linux(debian), PCSCNone), func(f *Facts) { f.Files["/.dockerenv"] = "" }), "blocks in-container: this is a container"},
		{"stopped, Windows", service(windows(), PCSCNone), "blocks pcsc-stopped: the service Smart Card (SCardSvr) is not running; Windows starts it when there is a reader -> plug in the token, then, as administrator: sc.exe config SCardSvr start= auto"},
		{"stopped, macOS", service(mac(), PCSCNone), "blocks pcsc-stopped: the system's PC/SC service is not running"},
		{"denied over ssh", with(service(linux(fedora), PCSCDenied), func(f *Facts) {
			f.Commands["pcscd --version"], f.Env["SSH_CONNECTION"] = pcscd20, "set"
		}), "blocks pcsc-denied: pcscd runs, but polkit does not let a session that is not at the computer itself, as over ssh, use it -> echo 'polkit.addRule("},
		{"denied, remote by loginctl", with(service(linux(fedora), PCSCDenied), func(f *Facts) {
			f.Files[polkitPCSC], f.Commands["loginctl show-session self -p Remote"] = "", "Remote=yes"
		}), "as over ssh, use it"},
		{"denied locally", with(service(linux(fedora), PCSCDenied), func(f *Facts) { f.Commands["pcscd --version"] = pcscd20 }), "polkit does not let this user use it -> echo 'polkit.addRule("},
		{"denied without polkit", service(linux(debian), PCSCDenied), "the PC/SC service denies access to this user -> sudo hsmbackup doctor"},
		{"fails", with(service(linux(debian), PCSCFails), func(f *Facts) { f.Failure = "too much to do" }), "blocks pcsc-fails: the PC/SC service does not answer as it should: too much to do -> sudo systemctl restart pcscd"},

		{"no reader", empty(linux(debian)), "blocks no-reader: no reader is plugged in -> plug in the token, then: hsmbackup doctor"},
		{"no reader, macOS", empty(mac()), "blocks no-reader: no reader is plugged in -> plug in the token"},
		{"no driver", with(empty(linux(debian)), func(f *Facts) { f.USB = nitrokey; delete(f.Files, ccidLists[0]) }), "blocks ccid-missing: Nitrokey HSM (20a0:4230) is plugged in, but pcscd has no driver for USB readers -> sudo apt install pcscd libccid"},
		{"old driver", with(empty(linux(debian)), func(f *Facts) { f.USB = []USBDevice{{"20a0:42b2", "Nitrokey 3"}} }), "blocks ccid-unknown: Nitrokey 3 (20a0:42b2) is plugged in, but libccid 1.5.2 does not know it -> install a later libccid"},
		{"not shown", with(empty(linux(debian)), func(f *Facts) { f.USB = nitrokey }), "blocks reader-unseen: Nitrokey HSM (20a0:4230) is plugged in, and pcscd does not show it -> sudo systemctl restart pcscd"},
		{"WSL, no usbipd", empty(wsl()), "blocks no-usb: no token is attached to WSL, and usbipd was not found in Windows -> in PowerShell as administrator: winget install usbipd"},
		{"WSL, usbipd 4", with(empty(wsl()), func(f *Facts) {
			f.Commands["usbipd.exe --version"], f.Commands["usbipd.exe list"] = "4.3.0+88.Branch.master.Sha.cb1d2f2", usbipdList4
		}), "blocks no-usb: no token is attached to WSL -> in PowerShell as administrator: usbipd bind --busid 1-7; then: usbipd attach --wsl --busid 1-7"},
		{"WSL, usbipd 4 without a token", with(empty(wsl()), func(f *Facts) { f.Commands["usbipd.exe --version"] = "4.0.0" }), "-> in PowerShell: usbipd list; as administrator: usbipd bind --busid BUSID; then: usbipd attach --wsl --busid BUSID"},
		{"WSL, usbipd 3", with(empty(wsl()), func(f *Facts) {
			f.Commands["usbipd.exe --version"], f.Commands["usbipd.exe list"] = "3.2.0+1", usbipdList4
		}), "blocks no-usb: no token is attached to WSL (usbipd 3.2.0) -> in PowerShell as administrator: usbipd wsl attach --busid 1-7"},
		{"WSL, usbipd 3 without a token", with(empty(wsl()), func(f *Facts) { f.Commands["usbipd.exe --version"] = "2.4.1" }), "usbipd wsl list; usbipd wsl attach --busid BUSID"},
		{"Windows, handed to WSL", with(empty(windows()), func(f *Facts) { f.Commands["usbipd list"] = usbipdAttached }), "blocks in-wsl: the token is handed over to WSL, so Windows does not see it -> usbipd detach --busid 1-7"},
		{"Windows, remote desktop", with(empty(windows()), func(f *Facts) { f.Env["SESSIONNAME"] = "RDP-Tcp#3" }), "blocks remote-session: this is a remote desktop session: Windows shows the readers of the computer that you sit at"},

		{"empty reader", reader(func(r *Reader) { r.State, r.Reach = Empty, nil }), "blocks no-token: no token is in a reader (Nitrokey Nitrokey HSM"},
		{"other card", reader(func(r *Reader) { r.State, r.Reach = OtherCard, nil }), "blocks other-card: the card in Nitrokey"},
		{"mute", reader(func(r *Reader) { r.State, r.Why, r.Reach = Fails, "no answer", nil }), "blocks token-mute: the token in Nitrokey Nitrokey HSM (DENK02009140000         ) 00 00 cannot be spoken to: no answer -> pull it"},
		{"no extended APDUs", reader(func(r *Reader) { r.State, r.Reach = NoExtended, nil }), "00 00 carries no extended APDUs, which a SmartCard-HSM needs -> use another reader"},
		{"cut", reader(func(r *Reader) { r.Reach = &Reach{Longest: 1014, Cut: true} }), "warning reader-cuts: Nitrokey Nitrokey HSM (DENK02009140000         ) 00 00 cuts commands longer than 1014 bytes without a word -> restore with hsmbackup"},
		{"refuses", reader(func(r *Reader) { r.Reach = &Reach{Longest: 500} }), "note reader-limit: Nitrokey Nitrokey HSM (DENK02009140000         ) 00 00 refuses commands longer than 500 bytes"},
		{"unknown reach", reader(func(r *Reader) { r.Reach = &Reach{Unknown: "it will not tell"} }), "note reader-unknown: how long a command Nitrokey Nitrokey HSM (DENK02009140000         ) 00 00 carries could not be found out: it will not tell"},
		{"held by scdaemon", with(reader(func(r *Reader) { r.State, r.Why, r.Reach = Held, "it keeps the token to itself", nil }), func(f *Facts) { f.Processes = []Process{{PID: 77, Name: "scdaemon"}} }), "it keeps the token to itself -> gpgconf --kill scdaemon"},
		{"held by a program", with(reader(func(r *Reader) { r.State, r.Reach = Held, nil }), func(f *Facts) {
			f.Processes = []Process{{PID: 76, Name: "pcscd", Uses: []string{"libpcsclite"}}, {PID: 77, Name: "firefox", Uses: []string{"opensc-pkcs11"}}}
		}), "-> kill 77, which is firefox"},
		{"held by nobody known", reader(func(r *Reader) { r.State, r.Reach = Held, nil }), "-> sudo lsof /run/pcscd/pcscd.comm shows who it may be; or: sudo systemctl restart pcscd"},

		{"scdaemon", with(linux(debian), func(f *Facts) { f.Processes = []Process{{PID: 77, Name: "scdaemon"}} }), "warning holder: GnuPG's scdaemon takes readers for itself (scdaemon, process 77) -> gpgconf --kill scdaemon"},
		{"ssh-agent", with(linux(debian), func(f *Facts) {
			f.Processes = []Process{{PID: 78, Name: "ssh-pkcs11-helper", Uses: []string{"opensc-pkcs11"}}}
		}), "note holder: ssh-agent has the keys of a token loaded, and logs other programs out when it uses them (ssh-pkcs11-helper, process 78) -> ssh-add -e opensc-pkcs11.so"},
		{"WinCryptSSHAgent", with(windows(), func(f *Facts) { f.Processes = []Process{{PID: 9, Name: "WinCryptSSHAgent.exe"}} }), "note holder: WinCryptSSHAgent uses the token, and may ask for its PIN in between (WinCryptSSHAgent.exe, process 9) -> taskkill /im WinCryptSSHAgent.exe"},
		{"some program", with(linux(debian), func(f *Facts) {
			f.Processes = []Process{{PID: 79, Name: "firefox", Uses: []string{"libpcsclite", "opensc-pkcs11"}}}
		}), "note holder: firefox (process 79) has libpcsclite and opensc-pkcs11 loaded and may use the token -> end it if it gets in between: kill 79"},

		{"no OpenSC", with(linux(debian), func(f *Facts) { delete(f.Commands, "opensc-tool --info") }), "note no-opensc: OpenSC was not found; backup and restore do without it, making keys (pkcs11-tool) and SSH need it -> sudo apt install opensc"},
		{"no OpenSC, Windows", with(windows(), func(f *Facts) { delete(f.Commands, openSCCommands[2]) }), "-> winget install OpenSC.OpenSC"},
		{"no OpenSC, macOS", with(mac(), func(f *Facts) { delete(f.Commands, openSCCommands[1]) }), "-> brew install --cask opensc"},

		{"catalog on NFS", with(linux(debian), func(f *Facts) {
			f.Files["/proc/self/mountinfo"] += "50 22 0:44 / /home rw,relatime shared:2 - nfs4 nas:/home rw,vers=4.2\n"
		}), "warning catalog-network: the catalog is on a network file system (nfs4)"},
		{"catalog on SMB", with(linux(debian), func(f *Facts) {
			f.Files["/proc/self/mountinfo"] += "50 22 0:44 / /mnt/my\\040nas rw - cifs //nas/x rw\n"
			f.Catalog.Real = "/mnt/my nas/hsm"
		}), "blocks catalog-network: the catalog is on a network file system (cifs), which does not lock and map files as a database needs -> export HSMBACKUP_CATALOG="},
		{"catalog on the disk of Windows", with(wsl(), func(f *Facts) {
			f.Files["/proc/self/mountinfo"] += "50 22 0:44 / /mnt/c rw - 9p C:\\134 rw,dirsync,aname=drvfs;path=C:\\\n"
			f.Catalog.Real = "/mnt/c/Users/a"
		}), "blocks catalog-network: the catalog is on a disk of the computer around this one (drvfs)"},
		{"catalog on SMB, macOS", with(mac(), func(f *Facts) { f.Catalog.Real = "/Volumes/backup/hsm" }), "the catalog is on a network file system (smbfs)"},
		{"catalog on a drive of the network", with(windows(), func(f *Facts) { f.Catalog.Real = `z:\hsm` }), "the catalog is on a network file system (net)"},
		{"catalog on a share of the network", with(windows(), func(f *Facts) { f.Catalog.Real = `\\nas\backup\hsm` }), "the catalog is on a network file system (unc)"},
		{"catalog in OneDrive", with(windows(), func(f *Facts) { f.Catalog.Real = `C:\Users\a\OneDrive - ACME\hsm` }), "warning catalog-synced: the catalog is in a folder that OneDrive copies while it is being written"},
		{"catalog in iCloud", with(mac(), func(f *Facts) { f.Catalog.Real = "/Users/a/Library/Mobile Documents/hsm" }), "a folder that iCloud copies"},
		{"catalog damaged", with(linux(debian), func(f *Facts) { f.Catalog.Problem, f.Catalog.Remedy = "catalog c.db: damaged", "keep the file" }), "blocks catalog: catalog c.db: damaged -> keep the file"},
		{"catalog newer", with(linux(debian), func(f *Facts) { f.Catalog.Problem = "catalog c.db: newer" }), "-> hsmbackup check"},
		{"catalog cannot be written", with(linux(debian), func(f *Facts) { f.Catalog.Writable = false }), "blocks catalog-read-only: nothing can be written at /home/a/.local/share/hsmbackup/catalog.db, where the catalog belongs -> export HSMBACKUP_CATALOG="},
		{"no place", with(linux(debian), func(f *Facts) { f.Catalog = Catalog{} }), "blocks no-catalog-place: "},

		{"swap", with(linux(debian), func(f *Facts) {
			f.Files["/proc/swaps"] = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n/dev/zram0 partition 1 0 100\n/dev/dm-1 partition 1 0 -3\n/my\\040swap file 1 0 -4\n"
			f.Files["/sys/block/dm-1/dm/uuid"] = "CRYPT-PLAIN-swap\n"
		}), "warning swap: swap is not encrypted (/dev/sda2, /my swap): it matters only while shares are opened on this computer"},
		{"core dumps", with(linux(ubuntu), func(f *Facts) {
			f.Files["/proc/sys/kernel/core_pattern"] = "|/usr/share/apport/apport -p%p -s%s\n"
		}), "note core-dumps: memory of programs that crash is kept (apport); hsmbackup keeps itself out"},
		{"hibernation, Windows", with(windows(), func(f *Facts) { f.Files[`C:\hiberfil.sys`] = "" }), "note hibernation: this computer can hibernate"},
		{"open disk, macOS", with(mac(), func(f *Facts) { f.Commands["fdesetup status"] = "FileVault is Off." }), "warning disk-open: FileVault is off"},

		{"clock behind the catalog", with(linux(debian), func(f *Facts) { f.Now = today.AddDate(0, 0, -2) }), "warning clock: the clock says 2026-11-23 18:00 UTC, and the catalog has an entry of 2026-11-24 18:00 UTC: ages would be wrong -> sudo timedatectl set-ntp true"},
		{"clock behind the program", with(windows(), func(f *Facts) { f.Now, f.Catalog.Newest = today.AddDate(-10, 0, 0), time.Time{} }), "warning clock: the clock says 2016-11-25 18:00 UTC, and this program was made on 2026-10-25 18:00 UTC -> as administrator: w32tm /resync"},
	} {
		got := seen(c.f)
		if !slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, c.want) }) {
			t.Errorf("%s: %q lacks %q", c.name, got, c.want)
		}
		if len(got) > 1 && c.name != "held by scdaemon" && c.name != "held by a program" {
			t.Errorf("%s: more than one finding: %q", c.name, got)
		}
		for _, found := range Examine(c.f) {
			if found.Do == "" || found.What == "" || strings.ContainsAny(found.What+found.Do, "\n") {
				t.Errorf("%s: %+v is no line with a line to type", c.name, found)
			}
		}
	}
}

// A second reader without a token is no obstacle, and the worst comes first.
func TestSeveral(t *testing.T) {
	f := linux(debian)
	f.Readers = append(f.Readers, Reader{Name: "eID 00", State: OtherCard}, Reader{Name: "empty 00", State: Empty}, Reader{Name: "old 00", State: NoExtended})
	got := Examine(f)
	if InTheWay(got) || len(got) != 2 {
		t.Errorf("%+v", got)
	}
	f.Files["/sys/power/state"], f.Files["/proc/swaps"] = "freeze mem disk\n", "Filename\n/dev/sda2 partition\n"
	f.Catalog.Writable = false
	got = Examine(f)
	if !InTheWay(got) || got[0].Code != "catalog-read-only" || got[1].Code != "swap" || got[len(got)-1].Severity != Note || !slices.ContainsFunc(got, func(g Finding) bool { return g.Code == "hibernation" }) {
		t.Errorf("%+v", got)
	}
}

// The lists of processes of macOS and Windows.
func TestProcesses(t *testing.T) {
	if got := ps("  101 /sbin/launchd\n  4711 /usr/libexec/ssh-pkcs11-helper\nrubbish\n"); len(got) != 1 || got[0].PID != 4711 || got[0].Name != "ssh-pkcs11-helper" {
		t.Errorf("ps: %+v", got)
	}
	if got := tasklist("\"System\",\"4\",\"Services\",\"0\",\"140 K\"\r\n\"WinCryptSSHAgent.exe\",\"9216\",\"Console\",\"1\",\"12,345 K\"\r\nrubbish\r\n"); len(got) != 1 || got[0].PID != 9216 || got[0].Name != "WinCryptSSHAgent.exe" {
		t.Errorf("tasklist: %+v", got)
	}
}

// This machine can be looked at, whatever it is.
func TestGather(t *testing.T) {
	t.Setenv("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22")
	f := Gather(t.Context(), today, time.Time{})
	if f.System() == "" || f.Env["SSH_CONNECTION"] != "set" || !f.remote() {
		t.Errorf("%q %+v", f.System(), f.Env)
	}
	f.PCSC, f.Catalog = PCSCFine, machine("linux").Catalog
	f.Readers = machine("linux").Readers
	for _, found := range Examine(f) {
		if found.Severity == Blocks && found.Code != "catalog-network" {
			t.Errorf("%+v", found)
		}
	}
}

// What stands in the way of a backup stands in the way of a wipe.
func TestFit(t *testing.T) {
	blocks := Finding{Severity: Blocks, Code: "catalog-network", What: "the catalog is far away", Do: "move it"}
	warns := Finding{Severity: Warning, Code: "clock", What: "the clock is behind", Do: "set it"}
	swap := Finding{Severity: Warning, Code: "swap", What: "swap is not encrypted", Do: "swapoff -a"}
	notes := Finding{Severity: Note, Code: "no-opensc", What: "OpenSC was not found", Do: "install it"}
	if found, list := Fit([]Finding{warns, swap, notes}); found != nil || len(list) != 1 || list[0] != "the clock is behind: set it" {
		t.Errorf("%v, %q", found, list)
	}
	if found, list := Fit([]Finding{warns, blocks}); found == nil || found.Do != "move it" || len(list) != 0 {
		t.Errorf("%v, %q", found, list)
	}
}
