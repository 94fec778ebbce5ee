package backup

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/store"
)

// Values of Origin.Kind.
const (
	// OriginGenerated: a token made the key; its request says which.
	OriginGenerated = "generated"
	// OriginImported: it came onto the token as a key blob.
	OriginImported = "imported"
	// OriginUnknown: nothing tells.
	OriginUnknown = "unknown"
)

// Origin is where a key comes from and where it has been since, as far as a
// catalog tells.
type Origin struct {
	// Kind is one of the constants; Why says why it is unknown or imported.
	Kind, Why string
	// Token is the serial of the token that generated it.
	Token string
	// Verified: the signature of that token's device key over the request is
	// good, by a certificate that the catalog has of it. Root names what that
	// certificate leads to: production, test or development; empty if to no
	// root that is known, as those of software tokens.
	Verified bool
	Root     string
	// KCV of the recovery key that it can be exported under; empty if it cannot.
	KCV string
	// Opened is when it was last open in a computer's memory, as far as is
	// recorded; zero if never.
	Opened time.Time
}

// String gives it in one line.
func (o Origin) String() string {
	var parts []string
	switch o.Kind {
	case OriginGenerated:
		text := "generated on " + o.Token
		switch {
		case !o.Verified:
			text += " by what its request says"
		case o.Root == "":
			text += " (whose certificate leads to no known root)"
		}
		parts = append(parts, text)
	default:
		parts = append(parts, fmt.Sprintf("origin %s: %s", o.Kind, o.Why))
	}
	if o.KCV != "" {
		parts = append(parts, "exportable under KCV "+o.KCV)
	} else {
		parts = append(parts, "not exportable")
	}
	switch {
	case o.Opened.Equal(store.UnknownTime):
		parts = append(parts, "opened on a host at an unknown time")
	case !o.Opened.IsZero():
		parts = append(parts, "opened on a host on "+o.Opened.UTC().Format("2006-01-02"))
	}
	return strings.Join(parts, ", ")
}

// Origins gives the origin of each key of a snapshot, in the order of its keys.
func Origins(state *store.State, s *store.Snapshot) []Origin {
	chains := map[string][]*cvc.Chain{}
	for _, other := range state.Snapshots {
		if c, err := cvc.ParseChain(other.Token.Certificate); err == nil {
			chains[c.Serial()] = append(chains[c.Serial()], c)
		}
	}
	list := make([]Origin, len(s.Keys))
	for i := range s.Keys {
		k := &s.Keys[i]
		o := made(s, k, state.Snapshots, chains)
		if len(k.Blob) > 0 {
			o.KCV = k.KCV
		}
		o.Opened = opened(k, state.Snapshots, state.Proofs)
		list[i] = o
	}
	return list
}

// made finds out where a key was made.
func made(s *store.Snapshot, k *store.Key, snapshots []*store.Snapshot, chains map[string][]*cvc.Chain) Origin {
	unknown := func(why string) Origin { return Origin{Kind: OriginUnknown, Why: why} }
	if kind, _ := kindAndBits(*k); kind == pkcs15.AES {
		return unknown("tokens make no request for AES keys")
	}
	public, err := pubkey.ParseSPKI(k.PublicKey)
	if err != nil {
		return unknown("its public key is not known")
	}
	// The request that stands beside it, else one that stood beside it once.
	all := append([]*store.Key{k}, sameKeys(k, snapshots)...)
	for _, seen := range all {
		r, err := cvc.ParseRequest(seen.Certificate)
		if err != nil {
			continue
		}
		if key, err := r.PublicKey(); err != nil || !key.Equal(public) {
			continue
		}
		if r.VerifyInner() != nil {
			return unknown("the key's own signature in its request does not verify")
		}
		return generatedBy(r, chains)
	}
	if len(k.Certificate) == 0 && k.Reference != 0 && !s.Adopted {
		return Origin{Kind: OriginImported, Why: "a token keeps a request with each key that it makes, and this one has none"}
	}
	return unknown("there is no request for it")
}

// generatedBy reads off a request which token vouches for it.
func generatedBy(r *cvc.Request, chains map[string][]*cvc.Chain) Origin {
	o := Origin{Kind: OriginGenerated, Token: strings.TrimSuffix(r.OuterCAR, "00000")}
	for _, chain := range chains[o.Token] {
		device, err := chain.DeviceKey()
		if err != nil || r.VerifyOuter(device) != nil {
			continue
		}
		o.Verified = true
		if root, err := chain.Verify(cvc.VendorRoots()); err == nil {
			o.Root = root.Kind
		}
		return o
	}
	if len(chains[o.Token]) > 0 {
		return Origin{Kind: OriginUnknown, Why: "its request names " + o.Token + ", but that token's signature does not verify"}
	}
	return o
}

// sameKeys gives every stored copy of a key whose public key is known.
func sameKeys(k *store.Key, snapshots []*store.Snapshot) []*store.Key {
	var list []*store.Key
	for _, s := range snapshots {
		for i := range s.Keys {
			if len(k.PublicKey) > 0 && bytes.Equal(s.Keys[i].PublicKey, k.PublicKey) {
				list = append(list, &s.Keys[i])
			}
		}
	}
	return list
}

// opened is when a blob of a key was last opened on a computer: by an offline
// proof or by a drill.
func opened(k *store.Key, snapshots []*store.Snapshot, proofs []store.Proof) time.Time {
	blobs := map[store.Hash]bool{store.HashOf(k.Blob): len(k.Blob) > 0}
	for _, copied := range sameKeys(k, snapshots) {
		if len(copied.Blob) > 0 {
			blobs[store.HashOf(copied.Blob)] = true
		}
	}
	var last time.Time
	for _, p := range proofs {
		// A blob that does not match what lies beside it was opened all the same.
		was := p.Kind == store.ProofOpened && (p.OK || p.Matched != "") || p.Kind == store.ProofDrilled
		if was && blobs[p.Blob] && p.Time.After(last) {
			last = p.Time
		}
	}
	return last
}
