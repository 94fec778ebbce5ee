package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestNewTakesOwnership(t *testing.T) {
	raw := []byte("648219")
	s := New(raw)
	if !bytes.Equal(raw, make([]byte, 6)) {
		t.Error("the original is not cleared")
	}
	if string(s.Bytes()) != "648219" || s.Len() != 6 {
		t.Error("the secret is not what was given")
	}
	c := s.Clone()
	if !c.Equal(s) {
		t.Error("a clone differs")
	}
	s.Wipe()
	s.Wipe()
	if s.Len() != 0 || c.Len() != 6 {
		t.Error("Wipe touched the clone or left bytes")
	}
	var none *Bytes
	none.Wipe()
	if none.Len() != 0 || !none.Equal(&Bytes{}) {
		t.Error("nil is not an empty secret")
	}
}

func TestNeverPrinted(t *testing.T) {
	s := New([]byte("hunter2hunter2"))
	type holder struct{ S *Bytes }
	for _, f := range []string{"%v", "%s", "%x", "%+v", "%#v", "%q", "%d"} {
		if out := fmt.Sprintf(f, s) + fmt.Sprintf(f, holder{s}); strings.Contains(out, "hunter") || strings.Contains(out, "68756e") || strings.Contains(out, "104") {
			t.Errorf("%s prints %s", f, out)
		}
	}
	if _, err := json.Marshal(holder{s}); err == nil {
		t.Error("JSON takes a secret")
	}
}

func TestRandom(t *testing.T) {
	a, b := Random(32), Random(32)
	if a.Len() != 32 || a.Equal(b) || bytes.Equal(a.Bytes(), make([]byte, 32)) {
		t.Error("not random")
	}
}
