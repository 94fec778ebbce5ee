package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"hsmbackup/internal/harmless"
	"hsmbackup/store"
)

// Entry is the document of an entry of the log.
type Entry struct {
	Seq      uint64          `json:"seq"`
	Time     string          `json:"time"`
	Kind     string          `json:"kind"`
	Program  string          `json:"program"`
	Previous string          `json:"previous"`
	Hash     string          `json:"hash"`
	Body     json.RawMessage `json:"body"`
}

// NewEntry makes its document.
func NewEntry(e store.Entry) Entry {
	return Entry{e.Seq, e.Time.UTC().Format(time.RFC3339), e.Kind, e.Program, e.Previous.String(), e.Hash.String(), e.Body}
}

// LogText is the log for people who have neither program nor catalog at hand.
func LogText(all []store.Entry, exported, program string) []byte {
	last := all[len(all)-1] // there is one: a catalog begins with an entry
	var content bytes.Buffer
	fmt.Fprintf(&content, "Log of an hsmbackup catalog, %s\n", Entries(len(all)))
	fmt.Fprintf(&content, "exported %s by %s\n\n", exported, program)
	fmt.Fprint(&content, "Times are UTC. Names and reasons are as they were typed: claims. Each entry holds\nthe hash of the one before it, so that the last one pins them all.\n\n")
	w := tabwriter.NewWriter(&content, 0, 8, 2, ' ', 0)
	for i, text := range EntryTexts(all) {
		e := NewEntry(all[i])
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", e.Seq, e.Time, harmless.Text(e.Kind), e.Hash[:12], harmless.Text(e.Program))
		fmt.Fprintf(w, "\t%s\n", harmless.Text(text))
	}
	_ = w.Flush() // writes to memory
	fmt.Fprintf(&content, "\nhash of the last entry: %s\n", last.Hash)
	fmt.Fprintf(&content, "head: %s\n", Head(last))
	fmt.Fprintf(&content, "`hsmbackup check --head \"%s\"` compares a catalog with this log\n", Head(last))
	return content.Bytes()
}

// EntryTexts says in words what each entry records.
func EntryTexts(all []store.Entry) []string {
	names := map[string][]store.Custodian{} // of the sets registered so far
	list := make([]string, len(all))
	for i, e := range all {
		var s store.PartSet
		if e.Kind == store.KindPartSet && json.Unmarshal(e.Body, &s) == nil {
			names[s.Set] = s.Custodians
		}
		list[i] = custodyText(e, names)
		if list[i] == "" {
			list[i] = entryText(e)
		}
	}
	return list
}

// custodyText says in words what an entry about the recovery key and its keepers
// records; empty for other kinds.
func custodyText(e store.Entry, names map[string][]store.Custodian) string {
	as := func(v any) bool { return json.Unmarshal(e.Body, v) == nil }
	switch e.Kind {
	case store.KindPartSet:
		var s store.PartSet
		if !as(&s) {
			break
		}
		var holders []string
		for _, c := range s.Custodians {
			holders = append(holders, c.Name)
		}
		text := fmt.Sprintf("set %s: any %d of %d parts, of %s", s.Set, s.Needed, len(s.Custodians), strings.Join(holders, ", "))
		if s.Shares > 1 {
			text += fmt.Sprintf("; share %d of %d", s.Share, s.Shares)
		}
		if s.KCV != "" {
			text += "; recovery key " + s.KCV
		}
		return text
	case store.KindPartSetRetired:
		var r store.RetiredSet
		if !as(&r) {
			break
		}
		text := "set " + r.Set + " is retired"
		if r.By != "" {
			text += ", set " + r.By + " takes its place"
		}
		return text + ": " + r.Reason
	case store.KindRollCall:
		var r store.RollCall
		if !as(&r) {
			break
		}
		who := fmt.Sprintf("the custodian of part %d", r.Index)
		if r.Index >= 1 && r.Index <= len(names[r.Set]) {
			who = fmt.Sprintf("%s, part %d", names[r.Set][r.Index-1].Name, r.Index)
		}
		return fmt.Sprintf("%s of set %s, has it (%s)", who, r.Set, r.Origin)
	case store.KindCeremony:
		var c store.Ceremony
		if !as(&c) {
			break
		}
		text := c.Job
		switch {
		case c.OldKCV != "":
			text += fmt.Sprintf(", recovery key %s in place of %s", c.KCV, c.OldKCV)
		case c.KCV != "":
			text += ", recovery key " + c.KCV
		}
		if len(c.Sets) > 0 {
			text += ", set " + strings.Join(c.Sets, ", set ")
		}
		if c.Token != "" {
			text += ", token " + c.Token
		}
		if c.Who != "" {
			text += ", by " + c.Who + " (as typed)"
		}
		if c.Why != "" {
			text += ", why: " + c.Why
		}
		return text + ": " + c.Outcome
	case store.KindCopy:
		var c store.Copy
		if !as(&c) {
			break
		}
		text := fmt.Sprintf("%s, up to entry %d", c.Path, c.Seq)
		if c.SameDisk {
			text += ", on the catalog's own disk"
		}
		return text
	}
	return ""
}

// entryText says in words what an entry records; of a kind that is not known it
// gives the body as it stands.
func entryText(e store.Entry) string {
	var b struct {
		ID          string `json:"id"`
		Serial      string `json:"serial"`
		KCV         string `json:"kcv"`
		Origin      string `json:"origin"`
		Random      bool   `json:"random"`
		Snapshot    string `json:"snapshot"`
		Token       string `json:"token"`
		Complete    bool   `json:"complete"`
		Proof       string `json:"proof"`
		OK          bool   `json:"ok"`
		Anchored    string `json:"anchored"`
		Reference   int    `json:"reference"`
		Label       string `json:"label"`
		Reason      string `json:"reason"`
		Format      int    `json:"format"`
		From        string `json:"from"`
		To          string `json:"to"`
		At          int    `json:"at"`
		SuccessorOf string `json:"successor_of"`
		Seq         uint64 `json:"seq"`
		Proofs      []store.Proof
		Snapshots   []string `json:"snapshots"`
		Seconds     float64  `json:"seconds"`
		Firmware    string   `json:"firmware"`
		Step        string   `json:"step"`
		Successor   string   `json:"successor"`
		Fate        string   `json:"fate"`
	}
	if json.Unmarshal(e.Body, &b) != nil {
		return string(e.Body)
	}
	verdict := func(ok bool, good, bad string) string {
		if ok {
			return good
		}
		return bad
	}
	switch e.Kind {
	case store.KindCreated:
		return fmt.Sprintf("catalog of format %d", b.Format)
	case store.KindSnapshot:
		return fmt.Sprintf("%s of %s", b.ID, TakenOf(b.Serial))
	case store.KindShareSeen:
		return fmt.Sprintf("recovery key %s (%s)%s", b.KCV, b.Origin, verdict(b.Random, ", random: nobody has shares", ""))
	case store.KindAccepted:
		return fmt.Sprintf("key %d of %s: %s", b.Reference, b.Serial, b.Reason)
	case store.KindCheck:
		return fmt.Sprintf("%s, %s, anchored: %s", b.Proof, verdict(b.OK, "good", "NOT GOOD"), b.Anchored)
	case store.KindRestore:
		return fmt.Sprintf("%s onto %s, %s", b.Snapshot, b.Token, verdict(b.Complete, "complete", "NOT COMPLETE"))
	case store.KindDrill:
		return fmt.Sprintf("%s, %s, in %.1f s", strings.Join(b.Snapshots, ", "), verdict(b.OK, "good", "NOT GOOD"), b.Seconds)
	case store.KindExport:
		return b.Snapshot
	case store.KindRotation:
		return fmt.Sprintf("key %d of %s has the successor key %d of %s", b.Reference, b.From, b.At, b.To)
	case store.KindUse:
		var u store.Use
		if json.Unmarshal(e.Body, &u) != nil {
			break
		}
		good := 0
		for _, k := range u.Keys {
			if k.OK {
				good++
			}
		}
		return fmt.Sprintf("keys of %s on %s, through PKCS#11: %d of %d used", u.Snapshot, u.Token, good, len(u.Keys))
	case store.KindUpdate:
		return fmt.Sprintf("of %s (firmware %s): %s%s", b.Serial, b.Firmware, b.Step, verdict(b.Successor != "", ", it is "+b.Successor+" now", ""))
	case store.KindOldToken:
		return fmt.Sprintf("%s is %s, %s has its keys", b.Serial, b.Fate, b.Token)
	case store.KindClock:
		return fmt.Sprintf("time runs backwards after entry %d: %s", b.Seq, b.Reason)
	case store.KindTokenAnchor:
		return fmt.Sprintf("%s %s", b.Serial, verdict(b.Seq > 0, fmt.Sprintf("anchors the log up to entry %d", b.Seq), "has no anchor any more"))
	case store.KindSuccessor:
		return fmt.Sprintf("%s was %s", b.Serial, b.SuccessorOf)
	case store.KindProof:
		var list []string
		for _, p := range b.Proofs {
			list = append(list, fmt.Sprintf("%s key %s of %s %s", p.Kind, Reference(p.Reference), p.Snapshot, verdict(p.OK, "good", "NOT GOOD: "+p.Reason)))
		}
		return strings.Join(list, "; ")
	}
	return string(e.Body)
}
