package backup

import (
	"bytes"
	_ "embed"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"hsmbackup/dkek"
	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// guideText is RESTORE.md. Whatever comes from a token goes through code in
// prose and through sh in commands, and into no comment.
//
//go:embed restore.md.tmpl
var guideText string

var guideTemplate = template.Must(template.New(exportGuideName).Funcs(template.FuncMap{
	"code": harmless.Code, "sh": harmless.Quoted, "hex": func(b []byte) string { return hex.EncodeToString(b) },
	"to": func(n int) []int {
		list := make([]int, max(n, 0))
		for i := range list {
			list[i] = i + 1
		}
		return list
	},
}).Parse(guideText))

// maxToolBlob is the longest key blob that sc-hsm-tool and OpenSC's driver take
// (fact sheet §6.6).
const maxToolBlob = 1500

// guide is what RESTORE.md is made from.
type guide struct {
	Program  string
	Snapshot *store.Snapshot
	Taken    string
	// KCV names the recovery key of most keys, Shares how many it has; 0 is not
	// known.
	KCV    string
	Shares int
	// PINRetry is the number of tries that the PIN is set up with, PINMin the
	// shortest PIN that sc-hsm-tool allows with it.
	PINRetry, PINMin int
	Keys             []guideKey // in the order of their references
	Certificates     []guideObject
	Data             []guideObject
	Left             []store.Gap

	keys []guideKey // all, until text chooses
}

// guideKey is a key as the commands need it.
type guideKey struct {
	Reference   int
	ID          []byte
	Label, Type string
	Kind        pkcs15.Kind
	Usage       pkcs15.Usage
	Algorithms  []byte
	KCV         string
	Public      *pubkey.Key
	// File is the wrapped key; empty if there is none, for that Reason. It holds
	// a description or not, a request or certificate or not.
	File                 string
	Described, Certified bool
	BlobSize             int
	PublicFile, SSHFile  string
	Reason               string
	Proven               bool
	// NewReference: its own was not known, this one was free.
	NewReference bool
	// Use is how a key can be proven by use: "rsa", "ec", "decrypt" or not.
	Use string
}

// Name is for prose.
func (k guideKey) Name() string {
	if k.Label == "" {
		return fmt.Sprintf("key %d", k.Reference)
	}
	return fmt.Sprintf("key %d, %s", k.Reference, harmless.Code(k.Label))
}

// AES keys are invisible to OpenSC.
func (k guideKey) AES() bool { return k.Kind == pkcs15.AES }

// Big: readers and old versions of OpenSC stumble over its blob.
func (k guideKey) Big() bool { return k.BlobSize > 1000 }

// Visible: OpenSC lists it, and its public key.
func (k guideKey) Visible() bool { return k.Described && !k.AES() }

// Digest is how many bytes an ECDSA key signs in the proof.
func (k guideKey) Digest() int { return min(32, k.Public.Curve.FieldBytes()) }

// guideObject is an elementary file that belongs to no key.
type guideObject struct {
	FID, Description schsm.FID
	Described        bool
	Sealed           bool
	Label            string
	ID               []byte
	Application      string
	File             string
}

func newGuide(s *store.Snapshot, o ExportOptions) *guide {
	g := &guide{Program: o.Program, Snapshot: s, Taken: s.Taken.UTC().Format("2006-01-02 15:04 UTC"), PINMin: 6}
	// sc-hsm-tool makes 3 tries unless told, and asks for a longer PIN for more.
	if n := s.Token.PINTries; n >= 1 && n <= 10 && n != 3 {
		g.PINRetry = n
		switch {
		case n > 5:
			g.PINMin = 8
		case n > 3:
			g.PINMin = 7
		}
	}
	return g
}

func (g *guide) leave(what, reason string) {
	g.Left = append(g.Left, store.Gap{What: what, Reason: reason})
}

func (g *guide) addKey(k guideKey) { g.keys = append(g.keys, k) }

// addObject sorts a file into what OpenSC can write and what not.
func (g *guide) addObject(o guideObject) {
	what := "file " + o.FID.String()
	switch p := o.FID.Prefix(); {
	case o.Sealed:
		g.leave(what, "it is sealed under the recovery key, which OpenSC cannot undo")
	case p == schsm.PrefixCertificate && strings.HasSuffix(o.File, ".der"):
		g.Certificates = append(g.Certificates, o)
	case p == schsm.PrefixCertificate:
		g.leave(what, "it is no X.509 certificate, and OpenSC writes no others")
	case p == schsm.PrefixPublicData && o.Described:
		g.Data = append(g.Data, o)
	case p == schsm.PrefixPublicData:
		g.leave(what, "no description says what it is")
	default:
		g.leave(what, "OpenSC has no command that writes it")
	}
}

// text chooses what the commands restore, and writes RESTORE.md.
func (g *guide) text() ([]byte, error) {
	slices.SortStableFunc(g.keys, func(a, b guideKey) int { return a.Reference - b.Reference })
	g.chooseDKEK()
	taken := map[int]bool{0: true}
	ids := map[string]int{}
	for _, k := range g.keys {
		taken[k.Reference] = true
		ids[string(k.ID)]++
	}
	for _, k := range g.keys {
		what := "key"
		if k.Reference != 0 {
			what = fmt.Sprintf("key %d", k.Reference)
		}
		if k.Label != "" {
			what += fmt.Sprintf(" %q", k.Label)
		}
		switch {
		case k.File == "":
			g.leave(what, k.Reason)
			continue
		case k.BlobSize > maxToolBlob:
			g.leave(what, fmt.Sprintf("its blob of %d bytes is longer than OpenSC takes (%d)", k.BlobSize, maxToolBlob))
			continue
		case k.KCV != g.KCV:
			g.leave(what, fmt.Sprintf("it is under the recovery key %s; a token that sc-hsm-tool sets up has one, and the commands are for %s: follow them on a token of its own", k.KCV, g.KCV))
			continue
		}
		if k.Reference == 0 {
			for k.NewReference = true; taken[k.Reference]; k.Reference++ {
			}
			taken[k.Reference] = true
		}
		k.Use = k.use(ids[string(k.ID)] == 1)
		g.Keys = append(g.Keys, k)
	}
	g.chooseObjects(ids)
	var out bytes.Buffer
	err := guideTemplate.Execute(&out, g)
	return out.Bytes(), err
}

// chooseDKEK takes the recovery key that most keys are under; among equals the
// one of the lowest key domain, then the one met first.
func (g *guide) chooseDKEK() {
	count := map[string]int{}
	var order []string
	for _, d := range g.Snapshot.Token.Domains {
		order = append(order, strings.ToUpper(d.KCV))
	}
	for _, k := range g.keys {
		if k.File != "" {
			count[k.KCV]++
			order = append(order, k.KCV)
		}
	}
	for _, kcv := range order {
		if count[kcv] > count[g.KCV] {
			g.KCV = kcv
		}
	}
	if g.KCV == "" && len(g.Snapshot.Token.Domains) > 0 { // no keys: the token's own
		if kcv, err := dkek.ParseKCV(g.Snapshot.Token.Domains[0].KCV); err == nil {
			g.KCV = kcv.String()
		}
	}
	for _, d := range g.Snapshot.Token.Domains {
		if g.KCV != "" && strings.EqualFold(d.KCV, g.KCV) && len(d.UID) == 0 {
			g.Shares = d.Shares
			return
		}
	}
}

// use says how OpenSC can be made to prove a key. It finds keys by their ID,
// uses them as their description says, and asks the token for the raw
// operations, which a list may leave out.
func (k guideKey) use(unique bool) string {
	allows := schsm.KeyInfo{Algorithms: k.Algorithms}.Allows
	switch {
	case !unique || len(k.ID) == 0 || !k.Visible() || k.Public == nil:
	case k.Public.RSA != nil && k.Usage&pkcs15.Sign != 0 && allows(schsm.RSARaw):
		return "rsa"
	case k.Public.RSA != nil && k.Usage&pkcs15.Decrypt != 0 && allows(schsm.RSADecrypt):
		return "decrypt"
	case k.Public.RSA == nil && k.Usage&pkcs15.Sign != 0 && allows(schsm.ECDSA):
		return "ec"
	}
	return ""
}

// chooseObjects leaves out certificates that OpenSC would put elsewhere: with
// the ID of a key it writes over that key's request, and it takes each ID once.
func (g *guide) chooseObjects(ids map[string]int) {
	var certificates []guideObject
	for _, o := range g.Certificates {
		what := "file " + o.FID.String()
		switch {
		case len(o.ID) > 0 && ids[string(o.ID)] > 0:
			g.leave(what, "it has the ID of a key: OpenSC would write it over what belongs to that key")
			continue
		case slices.ContainsFunc(certificates, func(c guideObject) bool { return len(o.ID) > 0 && bytes.Equal(c.ID, o.ID) }):
			g.leave(what, "another certificate has the same ID, and OpenSC takes each once")
			continue
		}
		certificates = append(certificates, o)
	}
	g.Certificates = certificates
}

// Anything tells whether there is something to restore.
func (g *guide) Anything() bool { return len(g.Keys)+len(g.Certificates)+len(g.Data) > 0 }

// Objects are written through PKCS#11.
func (g *guide) Objects() bool { return len(g.Certificates)+len(g.Data) > 0 }

// any of the keys to be restored.
func (g *guide) any(is func(guideKey) bool) bool { return slices.ContainsFunc(g.Keys, is) }

// HasBig, HasAES, HasHidden, HasSSH, HasUse, HasUnused and HasUnproven choose
// paragraphs.
func (g *guide) HasBig() bool { return g.any(guideKey.Big) }
func (g *guide) HasAES() bool { return g.any(guideKey.AES) }
func (g *guide) HasHidden() bool {
	return g.any(func(k guideKey) bool { return !k.Described && !k.AES() })
}
func (g *guide) HasVisible() bool  { return g.any(guideKey.Visible) }
func (g *guide) HasSSH() bool      { return g.any(guideKey.ShowsSSH) }
func (g *guide) HasUse() bool      { return g.any(func(k guideKey) bool { return k.Use != "" }) }
func (g *guide) HasUnused() bool   { return g.any(func(k guideKey) bool { return k.Use == "" }) }
func (g *guide) HasUnproven() bool { return g.any(func(k guideKey) bool { return !k.Proven }) }

// ShowsSSH: ssh-keygen finds the public key on the token, in the request or
// certificate that comes with the key.
func (k guideKey) ShowsSSH() bool { return k.SSHFile != "" && k.Visible() && k.Certified }
