package tokentest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// Searcher finds secrets in what a program leaves behind, in each of the forms
// that code could write them in. The zero value knows of none.
type Searcher struct {
	forms map[string][]byte
}

// Add has a secret searched for from now on.
func (s *Searcher) Add(name string, value []byte) {
	if s.forms == nil {
		s.forms = map[string][]byte{}
	}
	lower := hex.EncodeToString(value)
	s.forms[name] = value
	s.forms[name+" in hex"] = []byte(lower)
	s.forms[name+" in upper-case hex"] = []byte(strings.ToUpper(lower))
	// Whatever stands before it, some three alignments of base64 show it, but for
	// the first and last characters, which depend on the neighbours.
	for shift := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), value...))
		text = text[(shift*8+5)/6 : len(text)-1]
		s.forms[fmt.Sprintf("%s in base64 (%d)", name, shift)] = []byte(text)
		s.forms[fmt.Sprintf("%s in base64 for URLs (%d)", name, shift)] = []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	var numbers []string
	for _, b := range value {
		numbers = append(numbers, fmt.Sprint(b))
	}
	s.forms[name+" as Go prints bytes"] = []byte(strings.Join(numbers, " "))
	s.forms[name+" as JSON prints bytes"] = []byte(strings.Join(numbers, ","))
}

// Find names what is found in a text, with the form it has there.
func (s *Searcher) Find(text []byte) []string {
	var found []string
	for name, form := range s.forms {
		if bytes.Contains(text, form) {
			found = append(found, name)
		}
	}
	return found
}

// Search fails the test for each secret that is found.
func (s *Searcher) Search(t testing.TB, where string, text []byte) {
	t.Helper()
	for _, name := range s.Find(text) {
		t.Errorf("%s holds the %s", where, name)
	}
}
