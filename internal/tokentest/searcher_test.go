package tokentest

import (
	"encoding/base64"
	"fmt"
	"testing"
)

// The searcher finds what it is for, and nothing else.
func TestSearcher(t *testing.T) {
	needle := []byte("\x00\xfe\xfb\x3fsecret of a token")
	var s Searcher
	if found := s.Find([]byte("anything")); len(found) > 0 {
		t.Errorf("nothing was to be found: %q", found)
	}
	s.Add("secret", needle)
	for _, text := range []string{
		"a" + string(needle) + "b",
		fmt.Sprintf("%x", needle), fmt.Sprintf("%X", needle), fmt.Sprint(needle),
		base64.StdEncoding.EncodeToString([]byte("a" + string(needle) + "b")),
		base64.StdEncoding.EncodeToString([]byte("ab" + string(needle) + "b")),
		base64.URLEncoding.EncodeToString([]byte("abc" + string(needle) + "b")),
	} {
		if len(s.Find([]byte(text))) == 0 {
			t.Errorf("not found in %q", text)
		}
	}
	if found := s.Find(needle[:len(needle)-1]); len(found) > 0 {
		t.Errorf("found in what lacks a byte: %q", found)
	}
}
