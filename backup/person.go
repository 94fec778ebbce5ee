package backup

import (
	"context"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/secret"
	"hsmbackup/store"
)

// Person is whoever stands before one token: a job asks for what neither token
// nor catalog has, when it is needed and not before, and says what it finds. An
// error of a question, also for no, ends the job there.
type Person interface {
	// Name is how the token is spoken of.
	Name() string
	// Say writes a line of the result, Note one beside it.
	Say(format string, args ...any)
	Note(format string, args ...any)
	// Show shows a plan that is about to be carried out.
	Show(*Plan)
	// Agree asks whether to go on.
	Agree(context.Context, Question) error
	// Login asks for the PIN that the token has, and logs in.
	Login(context.Context) error
	// LoginNow is Login to a token that holds something and is about to be wiped:
	// its keys have to answer. false: nobody knows the PIN that it has.
	LoginNow(context.Context) (known bool, err error)
	// TypeBack has a word typed on a terminal before what it stands for goes for
	// good, unasked. Nothing else is a yes.
	TypeBack(ctx context.Context, what, word string) error
	// NewPINs asks for the PIN that the token is to get, and for its SO-PIN: a
	// new one where it has none. The caller wipes both.
	NewPINs(context.Context, *Inventory) (pin, soPIN *secret.Bytes, err error)
	// PINsSet is told that the token has them.
	PINsSet()
	// Given tells whether shares were given; Gather sorts them, and fails where
	// none were; Open opens them, once more if it has to. The caller wipes them.
	Given() bool
	Gather(context.Context, *store.Catalog) (*Shares, error)
	Open(context.Context, *store.Catalog) ([]*dkek.Share, error)
}

// Question is asked before something is done to a token.
type Question struct {
	// What is about to happen; empty is nothing that would have to be asked.
	What string
	// Typed: only the token's serial, typed, is a yes.
	Typed bool
}

// Shares are what was given of recovery keys, sorted and not yet opened.
type Shares struct {
	// Count is how many shares it gives.
	Count int
	// Sets are those that parts are of, KCV what all of them say.
	Sets []SharesSet
	KCV  dkek.KCV
}

// SharesSet is a set of parts that are here: how many shares its recovery key
// has, how it is called, and how people speak of it.
type SharesSet struct {
	Set, Name string
	Shares    int
}

// whole checks that parts are of a recovery key with as many shares as are here.
func (s *Shares) whole() error {
	for _, set := range s.Sets {
		if n := set.Shares - s.Count; n > 0 {
			return fail.Failf("missing-shares", "give them all: one --share for each file",
				"%s: the recovery key has %d shares, and %d of them are not here", set.Name, set.Shares, n)
		}
	}
	return nil
}
