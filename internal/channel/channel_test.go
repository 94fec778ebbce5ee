package channel

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"hsmbackup/internal/apdu"
)

func pair() (host, token *Session) {
	shared, nonce := bytes.Repeat([]byte{0x5A}, 32), []byte("12345678")
	return New(shared, nonce), New(shared, nonce)
}

// Commands of every form and answers come out as they went in, and nothing of
// them shows on the way.
func TestThereAndBack(t *testing.T) {
	host, token := pair()
	share := bytes.Repeat([]byte("SHARE..."), 4)
	for i, c := range []apdu.Command{
		{CLA: 0x80, INS: 0x52, P2: 3, Data: share, Le: apdu.LeShort},
		{INS: 0x20, P2: 0x81},
		{INS: 0xB1, P1: 0x2F, P2: 2, Data: share[:7], Le: apdu.LeExtended, Extended: true},
		{CLA: 0x80, INS: 0x58, Le: 5},
		{INS: 0xD7, Data: bytes.Repeat(share, 20), Le: 300, Extended: true},
	} {
		secured := host.Command(c)
		raw, err := secured.Bytes()
		if err != nil || !IsSecured(secured) || bytes.Contains(raw, share[:7]) {
			t.Fatalf("%d: % X, %v", i, raw, err)
		}
		parsed, err := apdu.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, err := token.OpenCommand(parsed)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c) {
			t.Fatalf("%d: %+v, %v; sent %+v", i, got, err, c)
		}
		r := apdu.Response{Data: share[:8*(i%3)], SW: apdu.Conditions}
		there := token.Answer(r)
		if len(r.Data) > 0 && bytes.Contains(there.Data, r.Data) {
			t.Fatalf("%d: % X", i, there.Data)
		}
		back, err := host.OpenAnswer(there)
		if err != nil || back.SW != r.SW || !bytes.Equal(back.Data, r.Data) {
			t.Fatalf("%d: %+v, %v; answered %+v", i, back, err, r)
		}
	}
}

// Every bit counts, the order counts, and an answer that is not under the keys is
// none, whatever its status word.
func TestAltered(t *testing.T) {
	command := apdu.Command{CLA: 0x80, INS: 0x52, Data: make([]byte, 32), Le: apdu.LeShort}
	host, _ := pair()
	raw, err := host.Command(command).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			changed := bytes.Clone(raw)
			changed[i] ^= 1 << bit
			c, err := apdu.Parse(changed)
			if err != nil || !IsSecured(c) || i == len(raw)-1 { // Le stands within too
				continue
			}
			_, token := pair()
			if _, err := token.OpenCommand(c); !errors.Is(err, ErrBroken) {
				t.Fatalf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
	host, token := pair()
	first, second := host.Command(command), host.Command(command)
	if _, err := token.OpenCommand(second); !errors.Is(err, ErrBroken) {
		t.Errorf("the second before the first: %v", err)
	}
	_, token = pair()
	if _, err := token.OpenCommand(first); err != nil {
		t.Fatal(err)
	}
	if _, err := token.OpenCommand(first); !errors.Is(err, ErrBroken) {
		t.Errorf("the first again: %v", err)
	}
	for _, r := range []apdu.Response{{SW: apdu.OK}, {Data: []byte{0x99, 2, 0x90, 0}, SW: apdu.OK}, {SW: apdu.UnknownCLA}} {
		host, _ := pair()
		host.Command(command)
		if _, err := host.OpenAnswer(r); !errors.Is(err, ErrBroken) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// Keys and a command as another implementation has them: openssl and the formulas
// of TR-03110-3, F.2, step by step.
func TestVector(t *testing.T) {
	host, _ := pair()
	if got := fmt.Sprintf("%X %X", host.enc, host.mac); got != vectorKeys {
		t.Errorf("keys %s", got)
	}
	raw, err := host.Command(apdu.Command{CLA: 0x80, INS: 0x52, Data: []byte("share"), Le: apdu.LeShort}).Bytes()
	if err != nil || fmt.Sprintf("%X", raw) != vectorCommand {
		t.Errorf("%X, %v", raw, err)
	}
}

const (
	vectorKeys    = "CE354673D069DF6B7013C21ECB66CF3D 3D61E5C10BE4B4AE04847FBEA056A38A"
	vectorCommand = "8C5200002087110114B7503C7A16F21FA49E6889E83CDBA99701008E08DEF394" +
		"5EC228EC7100"
)
