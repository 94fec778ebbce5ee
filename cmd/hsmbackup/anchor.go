package main

import (
	"context"
	"errors"
	"fmt"

	"hsmbackup/backup"
	"hsmbackup/internal/console"
	"hsmbackup/internal/report"
	"hsmbackup/internal/terminal"
)

// confirmSince shows what came after the anchor and no key vouches for, and asks
// whether it is so. Where nobody can be asked the anchor stays, and what was
// proven is proven all the same.
func (a *app) confirmSince(ctx context.Context) func(backup.Since) (bool, error) {
	return func(since backup.Since) (bool, error) {
		a.Note("after entry %d the catalog says what no key vouches for; whoever can write it could have put it there:", since.Anchor)
		texts := report.EntryTexts(since.Entries)
		for i, e := range since.Entries {
			a.Note("  entry %d of %s, %s: %s", e.Seq, e.Time.Local().Format("2006-01-02 15:04"), e.Kind, texts[i])
		}
		for _, j := range since.Jumps {
			a.Note("  after entry %d time runs backwards, from %s to %s", j.Seq, j.Time.Local().Format("2006-01-02 15:04"), j.Then.Local().Format("2006-01-02 15:04"))
		}
		err := a.Ask(ctx, "Is all of this so, and does the recovery key vouch for it from now on?")
		var f *console.Failure
		if errors.As(err, &f) && (f.Code == "declined" || f.Exit == console.ExitUsage) {
			return false, nil
		}
		return err == nil, err
	}
}

// anchorText says what the catalog's head was compared with.
func anchorText(v *backup.Verification) string {
	since := ""
	if v.Since > 0 {
		since = fmt.Sprintf("; what came since (%s) is chained to it, not covered", report.Entries(v.Since))
	}
	if len(v.Findings) > 0 {
		return "the catalog is damaged"
	}
	switch v.Anchored {
	case backup.AnchoredWords:
		return "the catalog is anchored: it holds the entry that the words name" + since
	case backup.AnchoredToken:
		return "the catalog is anchored: it holds the entry that the token carries" + since
	case backup.AnchoredCustodians:
		return "the catalog is anchored by what custodians signed: this is what lay there that day" + since
	case backup.AnchoredDKEK:
		return "the catalog is anchored by the recovery key" + since
	}
	return "the catalog is intact, not anchored"
}

// printAnchoring says whether the anchor moved, and what is doubtful.
func (a *app) printAnchoring(v *backup.Verification) {
	switch {
	case v.NewAnchor > 0:
		a.Printf("the recovery key anchors the catalog up to entry %d now", v.NewAnchor)
	case v.Unmoved != "" && v.Anchored != backup.NotAnchored:
		a.Printf("the anchor stays where it was: %s", terminal.Printable(v.Unmoved))
	}
	for _, d := range v.Doubts {
		a.Printf("DOUBTFUL: %s", terminal.Printable(d.What))
	}
}
