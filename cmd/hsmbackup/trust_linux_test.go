package main

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hsmbackup/internal/cli"
	"hsmbackup/internal/cvc"
	"hsmbackup/internal/pcsctest"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

// trustingApp takes a software token's root for the vendor's.
func trustingApp(token *softtoken.Token) *app {
	a := newApp()
	a.Roots = token.Roots()
	for i := range a.Roots {
		a.Roots[i].Kind = cvc.RootProduction
	}
	return a
}

// A token in a reader shows its device key before it gets a share: by chip
// authentication, which asks for no PIN, or where it has none by a fresh request.
func TestDeviceKeyInReader(t *testing.T) {
	ctx := context.Background()
	d := pcsctest.Start(t)
	share := workplace(t)
	load := []string{"dkek", "load", "--domain", "1", "--share", share, "--password", "file:PWA"}
	for _, c := range []struct {
		noChip bool
		way    string
	}{{false, "chip authentication shows"}, {true, "a fresh request shows"}} {
		token, err := softtoken.New(softtoken.Options{Firmware: "3.5", Serial: "SOFT0200001", NoChipAuth: c.noChip})
		if err != nil {
			t.Fatal(err)
		}
		// Two key domains, of which the second has no share yet.
		card, err := schsm.Open(ctx, token)
		if err != nil {
			t.Fatal(err)
		}
		err = card.Initialise(ctx, schsm.Initialisation{PIN: secret.New([]byte("648219")), SOPIN: secret.New([]byte("57621880")), Domains: 2})
		if err == nil {
			_, err = card.CreateDomain(ctx, 1, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		card.Close()
		token.Reset()
		d.Plug(t, 0, token)
		if c.noChip {
			expect(t, trustingApp(token), 2, "give --pin", load...)
			expect(t, newApp(), 6, "--untrusted-token SOFT0200001", load...) // not of the vendor's: no PIN is asked for
		}
		args := load
		if c.noChip {
			args = append(slices.Clone(load), "--pin", "file:PIN")
		}
		if said := expect(t, trustingApp(token), 0, c.way, args...); strings.Contains(said, "it wants its PIN") != c.noChip {
			t.Errorf("without chip authentication: %v\n%s", c.noChip, said)
		}
		if !c.noChip {
			d.Unplug(t, 0)
			continue
		}
		// The new start of a used token, and a restore onto a fresh one.
		secrets := []string{"--pin", "file:PIN", "--so-pin", "file:SO", "--password", "file:PWA", "--share", share, "--confirm", "SOFT0200001", "--yes"}
		expect(t, trustingApp(token), 0, c.way, append([]string{"init"}, secrets...)...)
		card, err = schsm.Open(ctx, token)
		if err != nil {
			t.Fatal(err)
		}
		if fids, err := card.Enumerate(ctx); err != nil || len(fids) > 2 { // its own certificate and device key
			t.Errorf("left behind: %v, %v", fids, err)
		}
		card.Close()
		token.Reset()
		d.Unplug(t, 0)
		expect(t, newApp(), 0, "", "soft", "new", "old.tok", "--serial", "SOFT0200002")
		soft := append([]string{"--token", "soft:old.tok"}, secrets[:8]...)
		expect(t, newApp(), 0, "", append([]string{"init", "--yes"}, soft...)...)
		expect(t, newApp(), 0, "", "soft", "keygen", "old.tok", "--type", "ec:prime256v1", "--label", "one", "--pin", "file:PIN")
		expect(t, newApp(), 0, "1 of 1 key", "backup", "--token", "soft:old.tok", "--pin", "file:PIN")
		spare, err := softtoken.New(softtoken.Options{Serial: "SOFT0400001", NoChipAuth: true})
		if err != nil {
			t.Fatal(err)
		}
		d.Plug(t, 0, spare)
		secrets[9] = "SOFT0400001"
		a := trustingApp(spare)
		a.Now = func() time.Time { return time.Now().AddDate(6, 0, 0) }
		said := expect(t, a, 0, c.way, append([]string{"restore", "--from", "SOFT0200002", "--init"}, secrets...)...)
		if !strings.Contains(said, "1 of 1 key is on SOFT0400001 and was used") || !strings.Contains(said, "its device certificate expired on") {
			t.Errorf("%s", said)
		}
	}
}

// showing is a token in a reader that shows another's certificates.
type showing struct {
	*softtoken.Token
	certificate []byte
	shares      int // that it was sent
}

func (s *showing) Transmit(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) > 8 && command[1] == 0xB1 && command[2] == 0x2F && command[3] == 0x02 {
		at := min(int(command[7])<<8|int(command[8]), len(s.certificate))
		return append(slices.Clone(s.certificate[at:min(at+256, len(s.certificate))]), 0x90, 0x00), nil
	}
	if command[0] == 0x80 && command[1] == 0x52 && len(command) > 32 {
		s.shares++
	}
	return s.Token.Transmit(ctx, command)
}

// A token that shows a real one's certificates without its key is told of in
// status by what they say, and is sent no share by any verb.
func TestCertificatesWithoutKey(t *testing.T) {
	d := pcsctest.Start(t)
	text, err := os.ReadFile(filepath.Join("..", "..", "internal", "cvc", "testdata", "DENK0404144.2f02.hex"))
	if err != nil {
		t.Fatal(err)
	}
	real, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	share := workplace(t)
	for _, noChip := range []bool{false, true} {
		token, err := softtoken.New(softtoken.Options{Firmware: "4.1", Serial: "SOFT0200066", NoChipAuth: noChip})
		if err != nil {
			t.Fatal(err)
		}
		fake := &showing{Token: token, certificate: real}
		d.Plug(t, 0, fake)
		a := newApp()
		a.Now = func() time.Time { return time.Date(2031, 12, 1, 0, 0, 0, 0, time.UTC) }
		const expired = "its device certificate expired on 2031-05-27"
		expect(t, a, 0, "NOTE: "+expired, "status")
		a.Flags = cli.SharedFlags{}
		expect(t, a, 0, `"notes":["`+expired, "status", "--json")

		secrets := []string{"--share", share, "--pin", "file:PIN", "--so-pin", "file:SO", "--password", "file:PWA", "--yes"}
		expect(t, newApp(), 6, "it did not show that it holds the device key", append([]string{"init"}, secrets...)...)
		// Made ready for a share by somebody else.
		expect(t, newApp(), 0, "", "init", "--shares", "1", "--confirm", "DENK0404144", "--pin", "file:PIN", "--so-pin", "file:SO", "--yes")
		expect(t, newApp(), 6, "it did not show that it holds the device key", append([]string{"dkek", "load"}, secrets[:len(secrets)-1]...)...)
		if fake.shares > 0 {
			t.Error("it was sent a share")
		}
		d.Unplug(t, 0)
	}
	// Other makers are named, in status and when a share is refused.
	token, err := softtoken.New(softtoken.Options{Serial: "SOFT0200066"})
	if err != nil {
		t.Fatal(err)
	}
	d.Plug(t, 0, &showing{Token: token, certificate: []byte(strings.ReplaceAll(string(real), "DESRCACC100001", "ESPICOHSMCA001"))})
	defer d.Unplug(t, 0)
	expect(t, newApp(), 0, "by the names in it, it is a pico-hsm", "status")
	expect(t, newApp(), 6, "it is a pico-hsm", "init", "--share", share, "--pin", "file:PIN", "--so-pin", "file:SO", "--password", "file:PWA", "--yes")
}
