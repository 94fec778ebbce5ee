// Package faults lists what is known to go wrong with tokens of some firmware, with
// readers and with OpenSC, and what the certificates of a token say besides.
package faults

import (
	"strconv"
	"strings"
)

// Part is what a known fault lies in.
type Part string

// The parts.
const (
	InFirmware Part = "firmware" // of the token; versions are major.minor
	InUpdate   Part = "update"   // of the firmware, whatever the version
	InReader   Part = "reader"   // known by a piece of its name
	InOpenSC   Part = "OpenSC"
)

// Fault is something that is known to go wrong, with its source. Everything
// that warns of one takes its words from here.
type Fault struct {
	// Code names it for scripts: "firmware-lists".
	Code string
	Part Part
	// Where says which ones have it: "firmware 3.1", "OpenSC 0.24 to 0.26".
	Where string
	// What happens, and what to do about it; each one sentence without a full
	// stop.
	What, Do string
	// Source is where it was reported.
	Source string

	// The versions that have it: from the first to before the second. Without a
	// second all later ones.
	from, below string
	// Names are pieces of readers' names, in lower case.
	Names []string
}

// Codes of the faults that jobs act upon.
const (
	FaultLists      = "firmware-lists"
	FaultWeakAES    = "firmware-weak-aes"
	FaultFullToken  = "update-no-memory"
	FaultCutReader  = "reader-cut"
	FaultTruncating = "opensc-truncates"
)

// faults is the list. Numbers are issues of the named repository, or topics of
// the vendor's forum.
var faults = []Fault{
	{
		Code: FaultLists, Part: InFirmware, Where: "firmware 3.1", from: "3.1", below: "3.2",
		What:   "it exports keys that have a list of allowed algorithms, and cannot take them back (6F00)",
		Do:     "restore such keys onto a token with firmware 3.2 or later; prove them with `hsmbackup verify --offline`",
		Source: "https://support.nitrokey.com/t/1783",
	},
	{
		Code: FaultWeakAES, Part: InFirmware, Where: "firmware 3.1 and 3.2", from: "3.1", below: "3.3",
		What:   "AES keys made by firmware 3.1 and 3.2 are weak by a fault of that firmware",
		Do:     "treat such a key as broken, and make a new one on another firmware",
		Source: "https://support.nitrokey.com/t/1948",
	},
	{
		Code: "update-new-serial", Part: InUpdate, Where: "every firmware update",
		What:   "the token gets a new device certificate and a new serial number",
		Do:     "write the new serial into PKCS#11 URIs, and register anew what knows the token by its certificate",
		Source: "https://github.com/Nitrokey/nitrokey-pro-firmware/issues/79",
	},
	{
		Code: FaultFullToken, Part: InUpdate, Where: "the first minutes after a firmware update, or after much was deleted",
		What:   "the token says that its memory is full (6A84) until it has collected what was deleted",
		Do:     "wait half a minute, unplug it, plug it in and run the same command again",
		Source: "https://support.nitrokey.com/t/1948",
	},
	{
		Code: "update-slow-init", Part: InUpdate, Where: "INITIALIZE after keys were deleted",
		What:   "it can take half a minute, longer than some readers wait; a second one sent blindly may cost a try of the SO-PIN",
		Do:     "let it finish, and look with `hsmbackup status` before anything is sent again",
		Source: "https://github.com/Nitrokey/nitrokey-pro-firmware/issues/78",
	},
	{
		Code: "update-half-restored", Part: InUpdate, Where: "keys brought back by sc-hsm-tool after the update from 3.3 to 3.5",
		What:   "the tool says \"successfully imported\", and no program sees the key: its description was not written",
		Do:     "`hsmbackup restore` finishes such a key",
		Source: "https://support.nitrokey.com/t/3615",
	},
	{
		Code: FaultCutReader, Part: InReader, Where: "Reiner SCT cyberJack readers", Names: []string{"cyberjack"},
		What:   "commands longer than 1014 bytes are cut without a word, so that OpenSC up to 0.23 cannot bring back RSA-4096 keys",
		Do:     "hsmbackup stays below; with OpenSC use 0.24 or later, or another reader",
		Source: "https://github.com/OpenSC/OpenSC/issues/2514",
	},
	{
		Code: "reader-short", Part: InReader, Where: "OMNIKEY 3x21 readers", Names: []string{"omnikey 3x21", "omnikey 3021", "omnikey 3121", "omnikey cardman 3x21", "omnikey cardman 3021", "omnikey cardman 3121"},
		What:   "with some drivers commands end at 261 bytes; a SmartCard-HSM needs longer ones even to list its keys",
		Do:     "use another reader or the maker's driver; the Nitrokey HSM has its reader built in",
		Source: "https://github.com/OpenSC/OpenSC/issues/715",
	},
	{
		Code: "opensc-no-unblock", Part: InOpenSC, Where: "OpenSC before 0.16", below: "0.16",
		What:   "a token that is initialised through its PKCS#11 module can never have its PIN unblocked",
		Do:     "use OpenSC 0.16 or later; `hsmbackup status` shows what the token's options allow",
		Source: "https://github.com/OpenSC/OpenSC/issues/668",
	},
	{
		Code: "opensc-threshold", Part: InOpenSC, Where: "OpenSC before 0.16", below: "0.16",
		What:   "passwords of shares that were split among people were made over a wrong prime, and cannot always be put together",
		Do:     "`hsmbackup dkek check` tells whether a set still opens",
		Source: "https://github.com/OpenSC/OpenSC/issues/670",
	},
	{
		Code: "opensc-rereads", Part: InOpenSC, Where: "OpenSC 0.18", from: "0.18", below: "0.19",
		What:   "sc-hsm-tool does not read the wrapped keys that it wrote",
		Do:     "use another version, or `hsmbackup adopt FILE` and `hsmbackup restore`",
		Source: "https://github.com/OpenSC/OpenSC/issues/1371",
	},
	{
		Code: "opensc-long-unwrap", Part: InOpenSC, Where: "OpenSC up to 0.23", below: "0.24",
		What:   "an RSA-4096 key is brought back in one long command, which readers that cut at 1014 bytes spoil",
		Do:     "restore with `hsmbackup restore`, or use OpenSC 0.24 or later",
		Source: "https://github.com/OpenSC/OpenSC/issues/2514",
	},
	{
		Code: FaultTruncating, Part: InOpenSC, Where: "OpenSC 0.24 to 0.26", from: "0.24", below: "0.27",
		What:   "sc-hsm-tool may write descriptions and certificates cut short, and says \"Key successfully imported\" of an RSA-4096 key that is incomplete",
		Do:     "restore with `hsmbackup restore`, which also mends what was cut",
		Source: "https://github.com/OpenSC/OpenSC/issues/3567",
	},
	{
		Code: "opensc-exit-zero", Part: InOpenSC, Where: "sc-hsm-tool of every version",
		What:   "it exits with 0 although the token refused to be initialised, could not be reached, or the disk was full",
		Do:     "use `hsmbackup init` and `hsmbackup dkek create`, or read its output word by word",
		Source: "https://github.com/OpenSC/OpenSC/blob/master/src/tools/sc-hsm-tool.c",
	},
}

// Faults is the list of known faults, in the order firmware, update, reader,
// OpenSC.
func Faults() []Fault { return append([]Fault(nil), faults...) }

// FindFault gives the fault with a code; the zero Fault if there is none.
func FindFault(code string) Fault {
	for _, f := range faults {
		if f.Code == code {
			return f
		}
	}
	return Fault{}
}

// FirmwareFaults are those of a firmware, major.minor.
func FirmwareFaults(firmware string) []Fault { return faultsOf(InFirmware, firmware) }

// OpenSCFaults are those of a version of OpenSC, such as 0.23.0.
func OpenSCFaults(version string) []Fault { return faultsOf(InOpenSC, version) }

// UpdateFaults are what is known to happen with and after a firmware update.
func UpdateFaults() []Fault { return faultsOf(InUpdate, "0") }

// ReaderFaults are those of a reader, by its name.
func ReaderFaults(name string) []Fault { return faultsOf(InReader, name) }

func faultsOf(part Part, which string) []Fault {
	var list []Fault
	for _, f := range faults {
		if f.Part == part && f.In(which) {
			list = append(list, f)
		}
	}
	return list
}

// In tells whether a version has the fault, or, of a reader's, whether the
// name is one of those. A version that cannot be read has none.
func (f Fault) In(which string) bool {
	if f.Part == InReader {
		for _, n := range f.Names {
			if strings.Contains(strings.ToLower(which), n) {
				return true
			}
		}
		return false
	}
	_, ok := release(which)
	return ok && !before(which, f.from) && (f.below == "" || before(which, f.below))
}

// String is the fault in a line.
func (f Fault) String() string { return f.Where + ": " + f.What }

// release reads a version: numbers with dots between, and what a distribution
// appends.
func release(version string) (numbers [3]int, ok bool) {
	for i, part := range strings.SplitN(version, ".", 3) {
		digits := len(part) - len(strings.TrimLeft(part, "0123456789"))
		n, err := strconv.Atoi(part[:digits])
		if err != nil {
			return numbers, false
		}
		if numbers[i] = n; digits < len(part) {
			break
		}
	}
	return numbers, true
}

func before(a, b string) bool {
	left, _ := release(a)
	right, _ := release(b)
	for i := range left {
		if left[i] != right[i] {
			return left[i] < right[i]
		}
	}
	return false
}
