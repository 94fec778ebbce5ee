package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hsmbackup/dkek"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
)

// splitFlags say how a share is split, and among whom.
type splitFlags struct {
	split      string
	custodians []string
	recipients []string
	out        string
	sheets     string
	of         string
	kcv        string
}

// add defines the flags but --out.
func (f *splitFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.split, "split", "", "split the share into N parts, `K/N`, of which any K bring it together")
	s.StringArrayVar(&f.custodians, "custodian", nil, "`NAME` (a pseudonym) of who gets a part; repeat for each of the N")
	s.StringArrayVar(&f.recipients, "recipient", nil, "`NAME=RECIPIENT`: seal the part of NAME with age, to age1…, age1pq1… or an SSH public key")
	s.StringVar(&f.sheets, "sheets", "", "a folder, `DIR`, for a sheet of each part to print (.pdf), but for those that are sealed")
}

// used names one of the flags that only mean something with --split.
func (f *splitFlags) used() string {
	for name, given := range map[string]bool{"custodian": len(f.custodians) > 0, "recipient": len(f.recipients) > 0, "of": f.of != "", "sheets": f.sheets != "", "kcv": f.kcv != ""} {
		if given {
			return name
		}
	}
	return ""
}

// parsePair reads "2/3".
func parsePair(flag, text string) (a, b int, err error) {
	left, right, ok := strings.Cut(text, "/")
	if a, err = strconv.Atoi(left); err == nil {
		b, err = strconv.Atoi(right)
	}
	if !ok || err != nil || a < 1 || b < 1 || a > b || b > maxCustodians {
		return 0, 0, console.Usagef("", "%s takes two numbers up to %d, such as 2/3", flag, maxCustodians)
	}
	return a, b, nil
}

// maxCustodians is the most parts of a set, and the most shares of which parts
// are made.
const maxCustodians = 16

// plan reads the flags. What it cannot know of the share stands at 1 of 1.
func (f *splitFlags) plan(job, who string) (*custody.HandOut, error) {
	h := &custody.HandOut{Job: job, Who: who, Dir: f.out, Sheets: f.sheets, Share: 1, Shares: 1}
	if f.split == "" {
		return nil, console.Usagef("with --split 2/3 and three times --custodian NAME, any two of them bring it together", "--split K/N is missing")
	}
	needed, total, err := parsePair("--split", f.split)
	if err != nil {
		return nil, err
	}
	if needed < 2 {
		return nil, console.Usagef("one part that is enough is a share: `hsmbackup dkek create --out FILE`", "--split %s: at least 2 parts must be needed", f.split)
	}
	h.Needed = needed
	if len(f.custodians) != total {
		return nil, console.Usagef("", "--split %s makes %d parts, --custodian names %d people", f.split, total, len(f.custodians))
	}
	for _, name := range f.custodians {
		if !custody.IsName(name) {
			return nil, console.Usagef("letters, digits, and . _ - within; no more than 64 bytes", "--custodian %q is no name for a file", name)
		}
		if slices.ContainsFunc(h.Receivers, func(k custody.Receiver) bool { return strings.EqualFold(k.Name, name) }) {
			return nil, console.Usagef("", "--custodian %s is named twice: each part is for somebody else", name)
		}
		h.Receivers = append(h.Receivers, custody.Receiver{Name: name})
	}
	if err := f.addRecipients(h); err != nil {
		return nil, err
	}
	if h.Sheets != "" && !slices.ContainsFunc(h.Receivers, func(k custody.Receiver) bool { return k.Recipient == "" }) {
		return nil, console.Usagef("", "--sheets: every part is sealed, and a sheet would hold it in clear")
	}
	if f.of != "" {
		if h.Share, h.Shares, err = parsePair("--of", f.of); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (f *splitFlags) addRecipients(h *custody.HandOut) error {
	for _, text := range f.recipients {
		name, recipient, ok := strings.Cut(text, "=")
		i := slices.IndexFunc(h.Receivers, func(k custody.Receiver) bool { return k.Name == name })
		switch {
		case !ok || recipient == "":
			return console.Usagef("", "--recipient takes NAME=RECIPIENT: whose part, and the public key that it is sealed to")
		case i < 0:
			return console.Usagef("", "--recipient names %q, who is no --custodian", name)
		case h.Receivers[i].Recipient != "":
			return console.Usagef("", "--recipient names %s twice", name)
		}
		if err := dkek.CheckRecipient(recipient); err != nil {
			return console.Usagef("", "--recipient of %s: %s", name, err)
		}
		h.Receivers[i].Recipient = recipient
	}
	if len(f.recipients) > 0 && h.Dir == "" {
		return console.Usagef("", "--recipient seals parts to files: --out DIR names the folder for them")
	}
	return nil
}
