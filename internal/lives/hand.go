package lives

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"

	"hsmbackup/dkek"
	"hsmbackup/internal/curve"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pkcs15"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// hand is another program that is logged in to a token.
type hand struct {
	w    *World
	t    *Token
	card *schsm.Card
	was  *truth
}

// byHand has another program do something at a token; without a PIN there is
// nothing for it to do.
func (w *World) byHand(t *Token, fresh bool, do func(h hand) error) error {
	was := w.truth(t)
	if !was.Initialised && !fresh {
		return nil
	}
	soft, err := softtoken.Open(t.file)
	w.must("open", err)
	defer soft.Close()
	card, err := schsm.Open(w.ctx, soft)
	w.must("open", err)
	defer card.Close()
	if was.Initialised {
		if err := card.Login(w.ctx, secret.New([]byte(pin)), true); err != nil {
			return err
		}
	}
	t.known = nil
	return do(hand{w, t, card, was})
}

// withKey is byHand for what is done to a key: the one of that reference, or
// another if there is none.
func (w *World) withKey(t *Token, s Step, do func(h hand, n byte) error) error {
	return w.byHand(t, false, func(h hand) error {
		refs := h.was.references()
		switch {
		case len(refs) == 0:
			return nil
		case slices.Contains(refs, byte(s.Key)):
			return do(h, byte(s.Key))
		}
		return do(h, refs[s.Key%len(refs)])
	})
}

// put writes a file anew; nothing is none.
func (h hand) put(f schsm.FID, content []byte) error {
	if err := h.card.DeleteFileIfThere(h.w.ctx, f); err != nil || len(content) == 0 {
		return err
	}
	return h.card.WriteFile(h.w.ctx, f, content)
}

func (w *World) makeKey(t *Token, s Step) error {
	return w.byHand(t, false, func(h hand) error {
		if _, there := h.was.objects[byte(s.Key)]; there || s.Key == 0 {
			return nil
		}
		w.tell("key %s %d: %s", t.serial(), s.Key, s.How)
		return h.make(byte(s.Key), s.How, s.N)
	})
}

// make makes a key of a kind: on the token, or on the computer and imported.
func (h hand) make(n byte, how string, choice int) error {
	domain, held := 0, false
	if len(h.was.Domains) > 1 {
		domain = choice % len(h.was.Domains)
	}
	var key *dkek.Key
	if domain < len(h.was.Domains) {
		if r := h.w.recovery(h.was.Domains[domain].kcv()); r != nil {
			key, held = r.key, true
		}
	}
	if !held && (how == "rsa" || how == "ec imported") {
		how = "ec"
	}
	d := pkcs15.KeyDescription{
		Label: fmt.Sprintf("k%d", n), ID: []byte{n}, Reference: int(n), Kind: pkcs15.EC, Bits: 256,
	}
	var beside *pubkey.Key
	switch how {
	case "rsa":
		r := rsaKeys()[choice%len(rsaKeys())]
		private, err := dkek.NewRSA(r)
		h.w.must("RSA", err)
		if err := h.load(n, key, private); err != nil {
			return err
		}
		d.Kind, d.Bits, beside = pkcs15.RSA, 1024, &pubkey.Key{RSA: &r.PublicKey}
	case "ec imported":
		c := curve.ByName("P-256")
		scalar, x, y, err := c.GenerateKey(rand.Reader)
		h.w.must("EC", err)
		private, err := dkek.NewEC(c, scalar)
		h.w.must("EC", err)
		if err := h.load(n, key, private); err != nil {
			return err
		}
		beside = &pubkey.Key{Curve: c, X: x, Y: y}
	case "aes", "aes listed":
		var allowed []byte
		if how == "aes listed" {
			allowed = []byte{byte(schsm.AESEncrypt), byte(schsm.WrapKey)}
		}
		if err := h.card.GenerateAES(h.w.ctx, n, 128, allowed); err != nil {
			return err
		}
		d.Kind, d.Bits = pkcs15.AES, 128
	default:
		if err := h.generate(n, how, byte(domain)); err != nil {
			return err
		}
	}
	if beside != nil {
		if err := h.put(schsm.CertificateFile(n), h.w.beside.Certificate(beside)); err != nil {
			return err
		}
	}
	d.Usage = pkcs15.DefaultUsage(d.Kind)
	return h.put(schsm.DescriptionFile(n), d.Encode())
}

// uses is how often a key with a counter can be used.
const uses = 9

func (h hand) generate(n byte, how string, domain byte) error {
	spec := cvc.KeySpec{CAR: "UTCA00001", CHR: h.card.Serial() + "00001"}
	spec.Curve = curve.ByName("P-256")
	switch how {
	case "ec locked":
		spec.Algorithms = []byte{0x70, byte(schsm.ECDH)}
	case "ec listed":
		spec.Algorithms = []byte{0x70, byte(schsm.ECDH), byte(schsm.WrapKey)}
	case "ec counted":
		left := uint32(uses)
		spec.Counter = &left
	}
	if len(h.was.Domains) > 1 {
		spec.Domain = &domain
	}
	_, err := h.card.Generate(h.w.ctx, n, spec)
	return err
}

func (h hand) load(n byte, key *dkek.Key, private *dkek.PrivateKey) error {
	blob, err := key.Seal(private, dkek.SealOptions{})
	h.w.must("seal", err)
	return h.card.Unwrap(h.w.ctx, n, blob)
}

// useKey spends a use of a key that counts them.
func (w *World) useKey(t *Token, s Step) error {
	return w.byHand(t, false, func(h hand) error {
		for _, n := range h.was.references() {
			if h.was.Keys[n].Counter != nil {
				w.tell("use %s key %d", t.serial(), n)
				_, err := h.card.Sign(w.ctx, n, schsm.Algorithm(0x70), bytes.Repeat([]byte{1}, 32))
				return err
			}
		}
		return nil
	})
}

func (w *World) deleteKey(t *Token, s Step) error {
	return w.withKey(t, s, func(h hand, n byte) error {
		w.tell("delete %s key %d: %s", t.serial(), n, s.How)
		return h.delete(n, s.How)
	})
}

func (h hand) delete(n byte, how string) error {
	err := h.card.DeleteFile(h.w.ctx, schsm.KeyFile(n))
	if err == nil && how != "key alone" {
		err = h.put(schsm.DescriptionFile(n), nil)
	}
	if err == nil && how == "whole" {
		err = h.put(schsm.CertificateFile(n), nil)
	}
	return err
}

// remakeKey deletes a key and makes one of its kind anew, under the same label,
// ID and reference.
func (w *World) remakeKey(t *Token, s Step) error {
	return w.withKey(t, s, func(h hand, n byte) error {
		how := "ec"
		switch h.was.Keys[n].Kind {
		case pkcs15.RSA:
			how = "rsa"
		case pkcs15.AES:
			how = "aes"
		}
		w.tell("remake %s key %d: %s %s", t.serial(), n, how, s.How)
		if err := h.delete(n, "whole"); err != nil {
			return err
		}
		if err := h.make(n, how, h.another(n, s.N)); err != nil {
			return err
		}
		if s.How == "old certificate" {
			if err := h.put(schsm.CertificateFile(n), []byte(h.was.objects[n].certificate)); err != nil {
				return err
			}
		}
		return h.put(schsm.DescriptionFile(n), []byte(h.was.objects[n].description))
	})
}

// another chooses the RSA key after the one that a key is, and no other domain.
func (h hand) another(n byte, choice int) int {
	for i, r := range rsaKeys() {
		if p := h.was.Keys[n].public(); p != nil && p.RSA != nil && p.RSA.Equal(&r.PublicKey) {
			choice = i + 1
		}
	}
	if slots := len(h.was.Domains); slots > 1 {
		return choice - choice%slots + h.was.Keys[n].Domain
	}
	return choice
}

func (w *World) swapCertificate(t *Token, s Step) error {
	return w.withKey(t, s, func(h hand, n byte) error {
		w.tell("certificate %s key %d: %s", t.serial(), n, s.How)
		public := h.was.Keys[n].public()
		switch {
		case s.How == "none" || s.How == "own" && public == nil:
			return h.put(schsm.CertificateFile(n), nil)
		case s.How == "foreign":
			c := curve.ByName("P-256")
			_, x, y, err := c.GenerateKey(rand.Reader)
			w.must("EC", err)
			public = &pubkey.Key{Curve: c, X: x, Y: y}
		}
		return h.put(schsm.CertificateFile(n), w.beside.Certificate(public))
	})
}

func (w *World) writeData(t *Token, s Step) error {
	return w.byHand(t, false, func(h hand) error {
		prefix := map[string]schsm.FID{"protected": 0xCD, "certificate": 0xCA}[s.How]
		if prefix == 0 {
			prefix = 0xCF
		}
		f := prefix<<8 | schsm.FID(s.N%3)
		content := fmt.Appendf(nil, "as of step %d", w.step)
		content = append(content, bytes.Repeat([]byte{byte(s.N)}, []int{0, 30, 300}[s.N%3])...)
		w.tell("data %s %s", t.serial(), f)
		return h.put(f, content)
	})
}

func (w *World) deleteData(t *Token, s Step) error {
	return w.byHand(t, false, func(h hand) error {
		list := h.was.numbers()
		if len(list) == 0 {
			return nil
		}
		f := schsm.FID(list[s.N%len(list)])
		w.tell("delete data %s %s", t.serial(), f)
		return h.put(f, nil)
	})
}

// unwrapForeign puts a key of the catalog onto a token, past the program.
func (w *World) unwrapForeign(t *Token, s Step) error {
	all := w.record(w.catalogs[s.Catalog]).snapshots
	if len(all) == 0 || s.Key == 0 {
		return nil
	}
	snap := all[s.N%len(all)]
	if len(snap.Keys) == 0 {
		return nil
	}
	k := snap.Keys[s.Other%len(snap.Keys)]
	return w.byHand(t, false, func(h hand) error {
		n := byte(s.Key)
		was, there := h.was.objects[n]
		if there != (s.How == "in place") || len(k.Blob) == 0 {
			return nil
		}
		w.tell("unwrap %s key %d: key %d of %s, %s", t.serial(), n, k.Reference, snap.ID, s.How)
		if s.How == "in place" { // what stands there now describes another key
			if err := h.delete(n, "whole"); err != nil {
				return err
			}
		}
		if err := h.card.Unwrap(w.ctx, n, k.Blob); err != nil {
			return err
		}
		description, certificate := k.Description, k.Certificate
		switch s.How {
		case "bare":
			return nil
		case "in place":
			description, certificate = []byte(was.description), []byte(was.certificate)
		case "relabelled":
			d, err := pkcs15.ParseKey(k.Description)
			if err != nil {
				return nil
			}
			d.Label = "other"
			description, certificate = d.Encode(), nil
		}
		if err := h.put(schsm.DescriptionFile(n), description); err != nil {
			return err
		}
		return h.put(schsm.CertificateFile(n), certificate)
	})
}

func (w *World) relabel(t *Token, s Step) error {
	return w.withKey(t, s, func(h hand, n byte) error {
		d, err := pkcs15.ParseKey([]byte(h.was.objects[n].description))
		if err != nil {
			return nil
		}
		if s.How == "label" {
			d.Label = fmt.Sprintf("label %d", s.N%3)
		} else {
			d.ID = []byte{byte(s.N % 3)}
		}
		w.tell("relabel %s key %d: %s", t.serial(), n, s.How)
		return h.put(schsm.DescriptionFile(n), d.Encode())
	})
}

// moveKey gives a key another reference, with all that belongs to it.
func (w *World) moveKey(t *Token, s Step) error {
	return w.withKey(t, s, func(h hand, n byte) error {
		to := byte(5 + s.N%3)
		if _, there := h.was.objects[to]; there {
			return nil
		}
		blob, err := h.card.Wrap(w.ctx, n)
		if err != nil {
			return err
		}
		if err := h.card.Unwrap(w.ctx, to, blob); err != nil {
			return err
		}
		w.tell("move %s key %d to %d", t.serial(), n, to)
		if err := h.delete(n, "whole"); err != nil {
			return err
		}
		if err := h.put(schsm.DescriptionFile(to), []byte(h.was.objects[n].description)); err != nil {
			return err
		}
		return h.put(schsm.CertificateFile(to), []byte(h.was.objects[n].certificate))
	})
}

// initialisation is one that another program makes.
func initialisation(domains, shares int) schsm.Initialisation {
	return schsm.Initialisation{
		Options: schsm.OptionUnblock, Domains: domains, Shares: shares, PINTries: 3,
		PIN: secret.New([]byte(pin)), SOPIN: secret.New([]byte(soPIN)),
	}
}

// foreignInit wipes a token past the program.
func (w *World) foreignInit(t *Token, _ Step) error {
	return w.byHand(t, true, func(h hand) error {
		w.tell("foreign %s is initialised by another program", t.serial())
		t.away = nil
		if err := h.card.Initialise(w.ctx, initialisation(0, 1)); err != nil {
			return err
		}
		_, err := h.card.LoadShare(w.ctx, 0, bytes.Clone(recoveries()[0].share[0].Bytes()))
		return err
	})
}

// initDomains gives a token that holds nothing several key domains.
func (w *World) initDomains(t *Token, s Step) error {
	return w.byHand(t, true, func(h hand) error {
		if h.was.Initialised && !h.was.empty() || h.was.Major < 3 {
			return nil
		}
		slots := 2 + s.N%2
		if err := h.card.Initialise(w.ctx, initialisation(slots, 0)); err != nil {
			return err
		}
		w.tell("domains %s has %d", t.serial(), slots)
		for n := range slots {
			r := recoveries()[(n+s.N/2)%3]
			if n > 0 && (s.N/6+n)%3 == 0 {
				continue // stays empty
			}
			if _, err := h.card.CreateDomain(w.ctx, n, len(r.share)); err != nil {
				return err
			}
			for _, share := range r.share {
				if _, err := h.card.LoadShare(w.ctx, n, bytes.Clone(share.Bytes())); err != nil {
					return err
				}
			}
			w.tell("   domain %d has %s", n, r.name)
		}
		return nil
	})
}
