package store

import (
	"errors"
	"fmt"
	"time"
)

// Asked says what keys on a token answered to a run that was logged in: that they
// are the stored ones, or that they are not. It is what a look without a login
// goes by, and leave to nothing.
type Asked struct {
	Serial string     `json:"serial"`
	Keys   []AskedKey `json:"keys"`
}

// AskedKey is one key of an Asked.
type AskedKey struct {
	Time      time.Time `json:"-"`         // of the entry
	Reference int       `json:"reference"` // on the token
	// Readable is the SHA-256 of all that could be read of it without a login
	// (docs/format.md).
	Readable Hash `json:"readable"`
	// Blob is the SHA-256 of the stored key blob that it was compared with.
	Blob Hash `json:"blob"`
	OK   bool `json:"ok"` // it answered as the stored key
	// Reason says why not.
	Reason string `json:"reason,omitempty"`
}

// Place is a key reference on a token.
type Place struct {
	Serial    string
	Reference int
}

func (Asked) kind() string { return KindAsked }
func (a Asked) check() error {
	if a.Serial == "" || len(a.Keys) == 0 {
		return errors.New("it names no token or no key")
	}
	for _, k := range a.Keys {
		if k.Reference < 1 || k.Reference > 255 {
			return fmt.Errorf("key reference %d is not within 1 to 255", k.Reference)
		}
	}
	return nil
}
func (a Asked) tell(s *State, e *Entry) {
	for _, k := range a.Keys {
		k.Time = e.Time
		s.Asked[Place{a.Serial, k.Reference}] = k
	}
}

// SharesChecked says that somebody typed the KCV of shares that were checked on
// another computer, and that something was destroyed on that. It counted for that
// job, and shows nothing.
type SharesChecked struct {
	KCV    KCV    `json:"kcv"`
	Serial string `json:"serial"` // of the token on which it was
}

func (SharesChecked) kind() string { return KindSharesChecked }
func (c SharesChecked) check() error {
	if !isHex(c.KCV, 16) {
		return fmt.Errorf("shares checked: KCV %q is not 16 hex digits", c.KCV)
	}
	return nil
}
func (SharesChecked) tell(*State, *Entry) {}
