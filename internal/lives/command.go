package lives

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hsmbackup/store"
)

// command is one command line, and what has to be known of it to judge it.
type command struct {
	t, to *Token // to is the second one, which is written to
	c     *Catalog
	args  []string
	given []*recovery
	// looks: no token is changed. idle: nor is a key used. readOnly: the
	// catalog cannot be written.
	looks, idle, readOnly bool
	// want is the snapshot that is meant; named tells how it was said.
	want  *store.Snapshot
	named string
	// discards are the references that may go for good.
	discards []byte
	judge    func(*judgement)
}

// target is the token that is written to.
func (c *command) target() *Token {
	if c.to != nil {
		return c.to
	}
	return c.t
}

// line is the command line.
func (c *command) line(w *World) []string {
	args := slices.Clone(c.args)
	args = append(args, "--catalog", c.c.path, "--json")
	args = append(args, "--pin", w.file("PIN"), "--so-pin", w.file("SO"))
	for _, r := range c.given {
		for _, f := range w.files(r) {
			args = append(args, "--share", f)
		}
	}
	return args
}

// file is where a secret is read.
func (w *World) file(name string) string { return "file:" + filepath.Join(w.dir, name) }

// at begins a command line about a token.
func at(t *Token, verb string, more ...string) []string {
	return append([]string{verb, "--token", t.soft()}, more...)
}

// sure is at for what destroys.
func sure(t *Token, verb string, more ...string) []string {
	return at(t, verb, append([]string{"--confirm", t.serial(), "--yes"}, more...)...)
}

// one is a recovery key, of those that there are.
func one(n int) []*recovery { return recoveries()[n%3 : n%3+1] }

// short is the command line as a story tells it.
func (c *command) short() string {
	list := slices.Clone(c.args)
	for _, r := range c.given {
		list = append(list, "--share", r.name)
	}
	return fmt.Sprintf("[%s] %s", c.c.name(), strings.Join(list, " "))
}

func (w *World) initialise(t *Token, c *Catalog, s Step) *command {
	is := w.truth(t)
	if is.Initialised && !is.empty() && s.N%3 > 0 { // less often a wipe
		return nil
	}
	cmd := &command{t: t, c: c, judge: judgeInit, args: sure(t, "init", "--label", "ssh")}
	switch s.How {
	case "no key":
		cmd.args = append(cmd.args, "--no-dkek")
	case "made up":
		cmd.args = append(cmd.args, "--shares", "0")
	default:
		cmd.given = []*recovery{recoveries()[[]int{0, 0, 0, 0, 1, 1, 2}[s.N%7]]}
	}
	w.pinOfNow(cmd, is)
	return cmd
}

// pinOfNow is the PIN that a token has which is about to be wiped.
func (w *World) pinOfNow(cmd *command, is *truth) {
	if !is.empty() && w.knows(cmd.args[0], "--token-pin") {
		cmd.args = append(cmd.args, "--token-pin", w.file("PIN"))
	}
}

var helps = map[string]string{}

// knows tells whether a verb has a flag.
func (w *World) knows(verb, flag string) bool {
	if helps[verb] == "" {
		_, help, _ := w.program(w.ctx, Conditions{Now: w.now}, []string{verb, "--help"})
		helps[verb] = string(help)
	}
	return strings.Contains(helps[verb], flag+" ")
}

func (w *World) load(t *Token, c *Catalog, _ Step) *command {
	for i, d := range w.truth(t).Domains {
		for _, r := range recoveries() {
			if d.Created && d.Outstanding > 0 && len(r.share) == d.Outstanding {
				args := []string{"dkek", "load", "--token", t.soft(), "--domain", fmt.Sprint(i)}
				return &command{t: t, c: c, given: []*recovery{r}, args: args}
			}
		}
	}
	return nil
}

func (w *World) backup(t *Token, c *Catalog, s Step) *command {
	cmd := &command{t: t, c: c, looks: true, judge: judgeBackup, args: at(t, "backup", "--yes")}
	switch {
	case s.has("attachment"):
		cmd.args = append(cmd.args, "--attach", filepath.Join(w.dir, attachment))
	case s.has("no attachment") && w.attached(t, c):
		cmd.args = append(cmd.args, "--detach", attachment)
	}
	if s.has("no proof") {
		cmd.args = append(cmd.args, "--no-proof")
	}
	return cmd
}

// attached: the token's newest snapshot has an attachment.
func (w *World) attached(t *Token, c *Catalog) bool {
	last := w.record(c).newest(t.serial())
	return last != nil && len(last.Attachments) > 0
}

func (w *World) verify(t *Token, c *Catalog, _ Step) *command {
	return &command{t: t, c: c, looks: true, judge: judgeProofs, args: at(t, "verify", "--yes")}
}

func (w *World) offline(t *Token, c *Catalog, s Step) *command {
	return &command{t: t, c: c, looks: true, idle: true, given: one(s.N), judge: judgeProofs, args: []string{"verify", "--offline"}}
}

func (w *World) drill(t *Token, c *Catalog, s Step) *command {
	return &command{t: t, c: c, looks: true, idle: true, given: one(s.N), args: []string{"drill"}}
}

func (w *World) check(t *Token, c *Catalog, _ Step) *command {
	return &command{t: t, c: c, looks: true, idle: true, judge: judgeCheck, args: at(t, "check")}
}

func (w *World) accept(t *Token, c *Catalog, s Step) *command {
	refs := w.truth(t).references()
	if len(refs) == 0 {
		return nil
	}
	key := fmt.Sprint(refs[s.N%len(refs)])
	return &command{t: t, c: c, looks: true, idle: true, args: at(t, "accept", key, "--reason", "it is meant to be so")}
}

// adopt takes the keys of a snapshot that was exported into a catalog, the other
// one or the same.
func (w *World) adopt(t *Token, c *Catalog, s Step) *command {
	all := w.record(c).snapshots
	if len(all) == 0 {
		return nil
	}
	snap := all[s.N%len(all)]
	dir := w.export(c, snap)
	if dir == "" {
		return nil
	}
	if len(snap.Keys) == 0 {
		return nil
	}
	to := w.catalogs[1-s.Catalog]
	if s.How == "here" {
		to = c
	}
	cmd := &command{t: t, c: to, looks: true, args: at(t, "adopt", dir, "--yes", "--no-backup")}
	if s.How == "share" {
		if cmd.given = w.recoveriesOf(kcvsOf(snap)...); len(cmd.given) > 1 {
			cmd.given = cmd.given[:1]
		}
	}
	return cmd
}

// export writes a snapshot out into a folder; it is empty where that failed.
func (w *World) export(c *Catalog, s *store.Snapshot) string {
	dir := filepath.Join(w.dir, fmt.Sprintf("export-%d", w.step))
	r := w.run(Cut{}, false, []string{"export", dir, s.ID, "--catalog", c.path, "--json"})
	switch {
	case r.panic != "":
		w.bad("panic", "export: %s", r.panic)
	case r.exit == 0 || r.exit == 3:
		return dir
	case c.whole == nil:
		w.bad(fmt.Sprintf("export %d %s", r.exit, r.code()), "%s", r.line())
	}
	return ""
}

func (w *World) rekey(t *Token, c *Catalog, s Step) *command {
	all := recoveries()
	from, to := all[s.N%3], all[(s.N+1+s.N/3%2)%3]
	cmd := &command{t: t, c: c, looks: true, idle: true, given: []*recovery{from}}
	cmd.args = []string{"dkek", "rekey", "--why", "routine", "--yes"}
	for _, f := range w.files(to) {
		cmd.args = append(cmd.args, "--new-share", f)
	}
	return cmd
}

func (w *World) second(t *Token, s Step) *Token {
	return w.token((t.physical + 1 + s.Other) % 3)
}

func (w *World) rotate(t *Token, c *Catalog, s Step) *command {
	to := w.second(t, s)
	args := []string{"rotate", "--from", t.soft(), "--to", to.soft(), "--yes"}
	return &command{t: t, to: to, c: c, judge: judgeRotate, args: args}
}

func (w *World) clone(t *Token, c *Catalog, s Step) *command {
	to := w.second(t, s)
	cmd := &command{t: t, to: to, c: c, judge: judgeClone}
	cmd.args = []string{"clone", "--from", t.soft(), "--to", to.soft(), "--confirm", to.serial(), "--yes"}
	if s.has("share") {
		if cmd.given = w.recoveriesOf(w.truth(t).kcvs()...); len(cmd.given) == 0 {
			return nil
		}
	}
	return cmd
}

func (w *World) restore(t *Token, c *Catalog, s Step) *command {
	cmd := w.restoration(t, c, s)
	if cmd == nil {
		return nil
	}
	snap := cmd.want
	for _, k := range snap.Keys {
		switch {
		case k.Reference == 0:
		case s.has("replace"):
			cmd.args = append(cmd.args, "--replace", fmt.Sprint(k.Reference))
		case s.has("at"):
			at := fmt.Sprintf("%d=%d", k.Reference, 20+k.Reference%200)
			cmd.args = append(cmd.args, "--at", at)
		}
	}
	if s.has("one key") && len(snap.Keys) > 0 && snap.Keys[s.N%len(snap.Keys)].Reference > 0 {
		cmd.args = append(cmd.args, "--key", fmt.Sprint(snap.Keys[s.N%len(snap.Keys)].Reference))
	}
	if s.has("journal") && s.How != "export" { // which goes into the catalog
		cmd.readOnly = true
		name := fmt.Sprintf("journal-%d-%s", t.physical, c.name())
		cmd.args = append(cmd.args, "--journal", filepath.Join(w.dir, name))
	}
	sealed := slices.ContainsFunc(snap.Files, func(f store.File) bool { return f.Sealed })
	if sealed && s.has("share") {
		cmd.given = w.recoveriesOf(kcvsOf(snap)...)
	}
	return cmd
}

// renew is restore --init.
func (w *World) renew(t *Token, c *Catalog, s Step) *command {
	cmd := w.restoration(t, c, s)
	if cmd == nil {
		return nil
	}
	cmd.args = append(cmd.args, "--init")
	cmd.given = w.recoveriesOf(kcvsOf(cmd.want)...)
	if s.has("another share") {
		cmd.given = one(s.N)
	}
	if len(cmd.given) == 0 {
		return nil
	}
	w.pinOfNow(cmd, w.truth(t))
	return cmd
}

// restoration is what restore and renew have in common: which snapshot.
func (w *World) restoration(t *Token, c *Catalog, s Step) *command {
	r := w.record(c)
	if len(r.snapshots) == 0 {
		return nil
	}
	cmd := &command{t: t, c: c, named: s.How, judge: judgeRestore, args: sure(t, "restore")}
	from := func(name string) { cmd.args = append(cmd.args, "--from", name) }
	some := r.snapshots[s.N%len(r.snapshots)]
	switch s.How {
	case "":
		cmd.want = r.newest(r.line(t.serial())...)
	case "snapshot":
		cmd.want = some
		from(some.ID)
	case "export":
		dir := w.export(c, some)
		if dir == "" {
			return nil
		}
		cmd.want = some
		cmd.args = append(cmd.args, "--from-export", dir)
	case "latest":
		cmd.want = r.snapshots[len(r.snapshots)-1]
		from("latest")
	case "serial", "old serial":
		serial := some.Token.Serial
		if s.How == "old serial" {
			serial = t.serials[0]
		}
		if cmd.want = r.newest(r.line(serial)...); cmd.want == nil {
			return nil
		}
		from(serial)
	}
	if cmd.want == nil { // of another token, if there is only one
		cmd.named, cmd.want = "any", r.snapshots[len(r.snapshots)-1]
	}
	return cmd
}

func (w *World) update(t *Token, c *Catalog, s Step) *command {
	is := w.truth(t)
	copies := filepath.Join(w.dir, "copies", c.name()) + string(os.PathSeparator)
	cmd := &command{t: t, c: c, judge: judgeEmptied}
	cmd.args = sure(t, "firmware-update", "--copy-to", copies, "--same-disk-anyway")
	switch s.How {
	case "share":
		cmd.given = w.recoveriesOf(is.kcvs()...)
	case "checked":
		if list := w.recoveriesOf(is.kcvs()...); len(list) > 0 {
			cmd.args = append(cmd.args, "--shares-checked", list[0].kcv)
		}
	}
	if refs := is.references(); s.has("discard") && len(refs) > 0 {
		cmd.discards = []byte{refs[s.N%len(refs)]}
		cmd.args = append(cmd.args, "--discard", fmt.Sprint(cmd.discards[0]))
	}
	return cmd
}

// begunOf is what was on a token when the update began that a catalog has of it.
func (c *Catalog) begunOf(t *Token) *begun {
	for _, serial := range slices.Backward(t.serials) {
		if b := c.begun[serial]; b != nil {
			return b
		}
	}
	return nil
}

func (w *World) goOn(t *Token, c *Catalog, s Step) *command {
	b := c.begunOf(t)
	if b == nil && s.N%8 > 0 {
		return nil
	}
	cmd := &command{t: t, c: c, judge: judgeBack, args: sure(t, "firmware-update")}
	if b != nil {
		cmd.given = w.recoveriesOf(b.was.kcvs()...)
	}
	return cmd
}

func (w *World) abort(t *Token, c *Catalog, s Step) *command {
	b := c.begunOf(t)
	if b == nil && s.N%8 > 0 {
		return nil
	}
	cmd := &command{t: t, c: c, judge: judgeBack, args: sure(t, "firmware-update", "--abort")}
	if b != nil && s.N%2 == 0 {
		cmd.given = w.recoveriesOf(b.was.kcvs()...)
	}
	return cmd
}

func (w *World) settle(t *Token, c *Catalog, s Step) *command {
	serial := t.serial()
	if s.How == "before" {
		serial = t.serials[max(0, len(t.serials)-2)]
	}
	args := []string{"firmware-update", "--settle", serial, "--confirm", serial}
	return &command{t: t, c: c, looks: true, idle: true, args: args}
}
