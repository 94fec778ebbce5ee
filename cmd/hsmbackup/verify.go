package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hsmbackup/backup"
	"hsmbackup/dkek"
	"hsmbackup/internal/build"
	"hsmbackup/internal/cli"
	"hsmbackup/internal/console"
	"hsmbackup/internal/custody"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
	"hsmbackup/internal/words"
	"hsmbackup/store"
)

func newVerifyCommand(a *app) *cobra.Command {
	var offline, throughPKCS11 bool
	var module, headText string
	cmd := &cobra.Command{
		Use:   "verify [SNAPSHOT...]",
		Short: "prove that stored keys come back",
		Long: `Proves the newest snapshot of the attached token, or the ones named, by round
trip: the token itself unwraps each key blob to a free place, original and copy
answer the same question, and the copy is deleted.

With --offline the key blobs are opened on this computer with the shares of the
recovery key, and each private key is compared with all that is known of it. No
token is needed; the private keys are open in this computer's memory meanwhile.
Without a snapshot named, the newest of each token is taken.

The recovery key also says whether this is the catalog that it saw last: it
anchors it. Whoever wrote the file since cannot have changed what is anchored.
--offline opens every key blob under the recovery key, shows what came since and
no key vouches for, asks, and then moves the anchor to the present head; no other
command does. A catalog without an anchor is exit 3 until --head says where it is
known from: the six words of its head, on the sheet or printed by a backup.

With --pkcs11 the keys on the attached token are found by their IDs and used
through a PKCS#11 module, as SSH and other programs use them, and their answers
are checked against the catalog. That shows that the token serves them, not that
they come back: a round trip does.`,
		Example: `  hsmbackup verify
  hsmbackup verify --pkcs11
  hsmbackup verify --offline --share share1.pbe
  hsmbackup verify --offline --share share1.pbe --head "abandon ability able about above absent"
  hsmbackup verify latest --offline --share alice.pbe --share bob.pbe`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if module != "" && !throughPKCS11 {
				return console.Usagef("", "--module is for --pkcs11")
			}
			if headText != "" && !offline {
				return console.Usagef("`hsmbackup check --head WORDS` compares them without a secret", "--head is for --offline")
			}
			if throughPKCS11 {
				if offline || len(a.Flags.ShareArgs) > 0 {
					return console.Usagef("", "--pkcs11 uses the keys on the token: leave --offline and --share out")
				}
				return a.verifyPKCS11(cmd.Context(), args, module)
			}
			if offline {
				if len(a.Flags.ShareArgs) == 0 {
					return console.Usagef("", "--offline needs the shares of the recovery key: --share FILE")
				}
				if a.Flags.Token != "" || a.Flags.Confirm != "" {
					return console.Usagef("", "--offline needs no token: leave --token and --confirm out")
				}
				return a.verifyOffline(cmd.Context(), args, headText)
			}
			if len(a.Flags.ShareArgs) > 0 {
				return console.Usagef("", "--share is for --offline: a round trip needs the PIN only")
			}
			return a.verifyRoundTrip(cmd.Context(), args)
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "open the key blobs on this computer with the shares, without a token")
	cmd.Flags().BoolVar(&throughPKCS11, "pkcs11", false, "use the keys on the token through a PKCS#11 module, as other programs do")
	cmd.Flags().StringVar(&headText, "head", "", "with --offline: `WORDS` that the sheet or an earlier backup gives as head")
	cmd.Flags().StringVar(&module, "module", "", "with --pkcs11: the module's `PATH` (default: OpenSC's, where its packages put it)")
	uses(cmd, useCatalog, useToken, useShare, useConfirm, useYes, useSpend)
	return cmd
}

// snapshots gives the named ones, or else the newest of each token.
func (a *app) snapshots(cat *store.Catalog, names []string) ([]*store.Snapshot, error) {
	state, err := cat.Read()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return backup.Current(state), nil
	}
	var list []*store.Snapshot
	for _, name := range names {
		s, note, err := backup.Find(state, name)
		if err != nil {
			return nil, err
		}
		if note != "" {
			a.Note("%s", note)
		}
		list = append(list, s)
	}
	return list, nil
}

// snapshotsOf gives the named ones, or else the newest of a token.
func (a *app) snapshotsOf(cat *store.Catalog, t *cli.Token, names []string) ([]*store.Snapshot, error) {
	own := len(names) == 0
	if own {
		names = []string{t.Serial}
	}
	list, err := a.snapshots(cat, names)
	if own && errors.Is(err, store.ErrNoSnapshot) {
		return nil, console.Failf("no-such-snapshot", "`hsmbackup backup` takes one; `hsmbackup list` shows those of other tokens, to be named", "the catalog at %s holds no snapshot of %s", cat.Path(), t.Name())
	}
	return list, err
}

func (a *app) verifyOffline(ctx context.Context, names []string, headText string) error {
	o := backup.Options{Progress: a.Steps, Program: build.Program(), Confirm: a.confirmSince(ctx)}
	var err error
	if o.Head, o.HeadBits, err = decodeWords("--head", headText, "`hsmbackup backup` prints as head"); err != nil {
		return err
	}
	cat, why, err := a.RecordingCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	list, err := a.snapshots(cat, names)
	if err != nil {
		return err
	}
	a.Note("private keys are open in this computer's memory while they are compared")
	key, shares, err := a.OpenKey(ctx, cat)
	if err != nil {
		return err
	}
	defer key.Wipe()
	dkek.WipeShares(shares)
	o.Also = func(v *backup.Verification, state *store.State) { custody.Anchor(v, state, nil, key) }
	v, err := backup.VerifyOffline(ctx, cat, list, key, o)
	a.Progress.Close()
	if err != nil {
		return err
	}
	return a.printVerification(v, "proof: opened with the recovery key "+key.KCV().String()+", on this computer", why, nil)
}

func (a *app) verifyRoundTrip(ctx context.Context, names []string) error {
	// A round trip notes in the journal what it is about to leave on the token.
	cat, err := a.ExistingCatalog()
	if err != nil {
		return err
	}
	if cat == nil {
		return a.NoCatalog()
	}
	defer cli.CloseCatalog(cat)
	t, err := a.OpenToken(ctx)
	if err != nil {
		return err
	}
	defer t.Close()
	list, err := a.snapshotsOf(cat, t, names)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		// A token proves what is under the recovery key that it has.
		inv, err := backup.Take(ctx, t.Card)
		if err != nil {
			return err
		}
		state, err := cat.Read()
		if err != nil {
			return err
		}
		list[0] = backup.AsBackedUp(state, inv, list[0])
	}
	if err := a.Login(ctx, t); err != nil {
		return err
	}
	v, err := backup.VerifyRoundTrip(ctx, t.Card, cat, list, a.proving(ctx))
	a.Progress.Close()
	if err != nil {
		return err
	}
	return a.printVerification(v, "proof: round trip on "+t.Name(), "", nil)
}

func newCheckCommand(a *app) *cobra.Command {
	var o checkFlags
	var within string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "check the catalog, for timers: no secret, no question",
		Long: `Checks everything in the catalog that can be checked without a secret: structure,
hashes, the chain from the first entry to the last, and of each key that blob,
public key, certificate and description fit together. Copies of the catalog that
can be reached are checked too. When a token is attached, it says whether it holds
a key that is in no snapshot, is not any more what it was, or did not answer to a
run with a login for longer than --asked-within.

This finds accidents. A catalog that someone replaced as a whole, or an older
copy of it, shows only against something kept elsewhere: --head takes the six
words that a backup printed. Custodians who answered the roll signed where the log
ended on that day; --set takes the six words of their set, from a sheet, and then
that is an anchor too. Without, the catalog is intact, but not anchored.

--metrics writes counts and ages for Prometheus' textfile collector, whatever the
check comes to; no names but the serials of tokens.`,
		Example: `  hsmbackup check
  hsmbackup check --head "abandon ability able about above absent"
  hsmbackup check --set "legal winner thank year wave sausage"
  hsmbackup check --metrics /var/lib/prometheus/node-exporter/hsmbackup.prom
  hsmbackup check --json`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if a.AskedWithin, err = parseDays("--asked-within", within); err != nil {
				return err
			}
			return a.check(cmd.Context(), o)
		},
	}
	askedWithinFlag(cmd, &within)
	cmd.Flags().StringVar(&o.head, "head", "", "`WORDS` that an earlier backup printed as head")
	cmd.Flags().StringVar(&o.set, "set", "", "`WORDS` of a set of parts, as they stand on a custodian's sheet")
	cmd.Flags().StringVar(&o.metrics, "metrics", "", "`FILE` for Prometheus' textfile collector, replaced as a whole")
	uses(cmd, useCatalog, useToken)
	return cmd
}

type checkFlags struct{ head, set, metrics string }

// decodeWords reads the value of a flag that takes words which were printed; printed
// says by what.
func decodeWords(flag, text, printed string) (prefix []byte, bits int, err error) {
	if text == "" {
		return nil, 0, nil
	}
	if prefix, bits, err = words.Decode(strings.Fields(text)); err != nil {
		return nil, 0, console.Usagef("", "%s: %s", flag, err)
	}
	if bits != report.HeadWords*words.Bits {
		return nil, 0, console.Usagef("", "%s takes the %s that %s, not %d", flag, console.Count(report.HeadWords, "word"), printed, bits/words.Bits)
	}
	return prefix, bits, nil
}

func (a *app) check(ctx context.Context, o checkFlags) error {
	prefix, bits, err := decodeWords("--head", o.head, "`hsmbackup backup` prints as head")
	if err != nil {
		return err
	}
	ofSet, _, err := decodeWords("--set", o.set, "stand on a custodian's sheet")
	if err != nil {
		return err
	}
	var setWords []string
	if ofSet != nil {
		setWords = words.Encode(ofSet, report.HeadWords)
	}
	cat, why, err := a.RecordingCatalog()
	if err != nil {
		return err
	}
	defer cli.CloseCatalog(cat)
	tokens, uncovered, tokenErr := a.inNoSnapshot(ctx, cat)
	v, err := backup.Check(cat, prefix, bits,
		func(v *backup.Verification, state *store.State) { custody.Anchor(v, state, setWords, nil) }, backup.CompareTokens(tokens...))
	if err != nil {
		return err
	}
	if o.metrics != "" {
		if err := report.WriteMetrics(o.metrics, cat, v, a.Now()); err != nil {
			return err
		}
	}
	if tokenErr != nil {
		return tokenErr
	}
	state, err := cat.Read()
	if err != nil {
		return err
	}
	return a.printVerification(v, "proof: intact, without any secret", why, uncovered, custody.InUse(state, a.Now())...)
}

// inNoSnapshot gives what attached tokens hold, and those of their keys that no
// snapshot has as they are now. That there is no token or no PC/SC is no error.
func (a *app) inNoSnapshot(ctx context.Context, cat *store.Catalog) (held []*backup.Inventory, list []backup.KeyCoverage, err error) {
	tokens, err := a.reach(ctx)
	if err != nil && (a.Flags.Token != "" || ctx.Err() != nil || !withoutPCSC(err)) {
		return nil, nil, err
	}
	for _, t := range tokens {
		defer t.Close()
		inv, err := backup.Take(ctx, t.Card)
		if err != nil {
			return nil, nil, err
		}
		held = append(held, inv)
		state, err := cat.Read()
		if err != nil {
			return nil, nil, err
		}
		for _, k := range backup.Cover(inv, state, nil) {
			if k.Coverage == backup.Missing || k.Coverage == backup.Stale || k.Coverage == backup.Unasked && !a.done(k) {
				list = append(list, k)
			}
		}
	}
	return held, list, nil
}

// printVerification prints a result and gives the error that carries its exit
// code.
func (a *app) printVerification(v *backup.Verification, first, notRecorded string, uncovered []backup.KeyCoverage, sets ...custody.KeptSet) error {
	if notRecorded == "" {
		notRecorded = v.NotRecorded
	}
	a.Changed = a.Changed || notRecorded == ""
	a.printSpent(v.Spent)
	exits := console.Exits{}
	if v.Damaged() {
		exits.Add(console.ExitDamaged)
	}
	if !v.OK() || len(uncovered) > 0 || len(v.Doubts) > 0 {
		exits.Add(console.ExitIncomplete)
	}
	risk := a.stale(sets)
	if a.Flags.JSON {
		doc := verificationDocument(v, notRecorded, uncovered)
		doc.OK, doc.PartSets = doc.OK && risk == nil, a.partSets(sets)
		if err := a.Document(doc); err != nil {
			return err
		}
	} else {
		a.Printf("%s", first)
		a.printProofs(v)
		for _, f := range v.Findings {
			a.Printf("DAMAGED: %s", f)
		}
		for _, k := range uncovered {
			a.Printf("on the token and not in the catalog: %s: %s", k.Key.Name(), k.Reason)
		}
		if why := nothingToProve(v); why != "" {
			a.Printf("%s", why)
		}
		a.printCopies(v.Copies)
		a.Printf("%s", anchorText(v))
		a.printAnchoring(v)
		for _, line := range v.Signed {
			a.Printf("%s", line)
		}
		a.printRisks(sets)
	}
	if notRecorded != "" {
		a.Note("the result was not recorded: %s", notRecorded)
	}
	var hints []string
	for _, d := range v.Doubts {
		hints = append(hints, d.Do)
	}
	if len(uncovered) > 0 || v.Empty() && len(v.Findings) == 0 {
		hints = append(hints, "`hsmbackup backup` takes a new snapshot")
	}
	return console.Outcomes(exits.Outcome(verificationSummary(v, uncovered), hints...), risk)
}

func (a *app) printProofs(v *backup.Verification) {
	for _, s := range v.Snapshots {
		a.Printf("snapshot %s of %s", s.ID, report.TakenOf(s.Token))
		var rows [][]string
		for _, k := range s.Keys {
			verdict := k.Proof
			switch {
			case k.Matched != "":
				verdict += ", matches its " + k.Matched
				if k.Matched == "self" {
					verdict = k.Proof + ", agrees with itself"
				}
			case k.Damage:
				verdict = "DAMAGED: " + k.Reason
			case k.Accepted:
				verdict = k.Reason
			case k.Unchecked:
				verdict = "not checked: " + k.Reason
			case k.OK && k.Mechanism != "":
				verdict = "used, " + k.Mechanism
			case !k.OK:
				verdict = "NOT PROVEN: " + k.Reason
			}
			rows = append(rows, []string{"  key " + report.Reference(k.Reference), k.Type, console.Quoted(k.Label), "ID " + hex.EncodeToString(k.ID), verdict})
		}
		a.Table(rows)
		for _, m := range s.Missing {
			a.Printf("  not in the backup: %s: %s", m.What, m.Reason)
		}
		for _, l := range s.Left {
			a.Printf("  did not come back: %s: %s", l.What, l.Reason)
		}
	}
}

// printCopies says how the copies of the catalog are.
func (a *app) printCopies(copies []backup.CopyState) {
	for _, c := range copies {
		path := terminal.Printable(c.Path)
		switch {
		case c.Damage != "":
			a.Printf("DAMAGED: the copy at %s: %s", path, c.Damage)
		case !c.Reached:
			a.Printf("copy at %s: not within reach, made %s", path, a.age(c.Time))
		case c.Behind > 1: // the entry about the copy comes after it
			a.Printf("copy at %s: intact, without the last %s", path, report.Entries(c.Behind))
		default:
			a.Printf("copy at %s: intact", path)
		}
	}
}

// nothingToProve says so of a catalog without keys: no news is no proof.
func nothingToProve(v *backup.Verification) string {
	switch {
	case !v.Empty() && onlyAccepted(v):
		return "nothing to prove: no key but such as were accepted as not exportable"
	case !v.Empty():
		return ""
	case len(v.Snapshots) == 0 && len(v.Findings) > 0:
		return "nothing to prove: no snapshot in the catalog can be read"
	case len(v.Snapshots) == 0:
		return "nothing to prove: no snapshot in the catalog"
	case slices.ContainsFunc(v.Snapshots, func(s backup.SnapshotProof) bool { return len(s.Keys) > 0 }):
		return "nothing to prove: no key that could be checked this way"
	}
	return "nothing to prove: no key in " + console.Count(len(v.Snapshots), "snapshot")
}

// onlyAccepted tells whether every key was accepted as not exportable.
func onlyAccepted(v *backup.Verification) bool {
	return !slices.ContainsFunc(v.Snapshots, func(s backup.SnapshotProof) bool {
		return slices.ContainsFunc(s.Keys, func(k backup.KeyProof) bool { return !k.Accepted && !k.Unchecked })
	})
}

func verificationSummary(v *backup.Verification, uncovered []backup.KeyCoverage) string {
	var list []string
	if n := len(v.Findings); n > 0 {
		list = append(list, console.Count(n, "finding")+" in the catalog, the first: "+v.Findings[0].String())
	}
	for _, c := range v.Copies {
		if c.Damage != "" {
			list = append(list, fmt.Sprintf("the copy at %s: %s", c.Path, c.Damage))
		}
	}
	for _, s := range v.Snapshots {
		for _, l := range s.Left {
			list = append(list, fmt.Sprintf("snapshot %s, %s: %s", s.ID, l.What, l.Reason))
		}
		for _, k := range s.Keys {
			if !k.OK && !k.Accepted && !k.Unchecked {
				list = append(list, fmt.Sprintf("snapshot %s, key %s %s: %s", s.ID, report.Reference(k.Reference), console.Quoted(k.Label), k.Reason))
			}
		}
	}
	for _, k := range uncovered {
		list = append(list, fmt.Sprintf("%s is not in the catalog as it is now", k.Key.Name()))
	}
	if v.Unsigned != "" {
		list = append(list, v.Unsigned)
	}
	for _, d := range v.Doubts {
		list = append(list, d.What)
	}
	if why := nothingToProve(v); why != "" {
		list = append(list, why)
	}
	return console.Brief(list)
}

func verificationDocument(v *backup.Verification, notRecorded string, uncovered []backup.KeyCoverage) jsonVerification {
	doc := jsonVerification{
		Proof: v.Proof, OK: v.OK() && len(uncovered) == 0 && len(v.Doubts) == 0, Anchored: v.Anchored,
		Snapshots: []jsonSnapshotProof{}, Findings: []jsonFinding{}, Uncovered: []report.Key{}, NotRecorded: notRecorded,
		Seconds: v.Took.Seconds(), Signed: v.Signed, AnchoredUpTo: v.NewAnchor,
	}
	for _, d := range v.Doubts {
		doc.Doubts = append(doc.Doubts, d.What)
	}
	for _, s := range v.Snapshots {
		proof := jsonSnapshotProof{ID: s.ID, Token: s.Token, Keys: keyProofs(s.Keys)}
		for _, l := range s.Left {
			proof.Left = append(proof.Left, l.What+": "+l.Reason)
		}
		doc.Snapshots = append(doc.Snapshots, proof)
	}
	for _, f := range v.Findings {
		doc.Findings = append(doc.Findings, jsonFinding{f.Where, f.What})
	}
	for _, k := range uncovered {
		doc.Uncovered = append(doc.Uncovered, report.NewKey(k))
	}
	for _, c := range v.Copies {
		doc.Copies = append(doc.Copies, jsonCopy{c.Path, c.Time.UTC().Format(time.RFC3339), c.Reached, c.Behind, c.Damage})
	}
	return doc
}

func keyProofs(keys []backup.KeyProof) []jsonKeyProof {
	list := []jsonKeyProof{}
	for _, k := range keys {
		list = append(list, jsonKeyProof{k.Reference, k.Label, hex.EncodeToString(k.ID), k.Type, k.Proof, k.Matched, k.OK, k.Reason, k.Unchecked, k.Mechanism})
	}
	return list
}
