package backup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hsmbackup/dkek"
	"hsmbackup/internal/apdu"
	"hsmbackup/internal/faults"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
	"hsmbackup/store"
)

// scripted is somebody at a token who has every answer at hand.
type scripted struct {
	card   *schsm.Card
	shares []*dkek.Share
	// broken is why the shares cannot be had; no is said to questions.
	broken, no error
	giveUp     func(KeyCoverage) (bool, error)
	putBack    bool

	said, notes []string
	asked       []Question
	pins        int // how often new ones were asked for
}

func (s *scripted) Name() string                { return s.card.Serial() }
func (s *scripted) Say(format string, a ...any) { s.said = append(s.said, fmt.Sprintf(format, a...)) }
func (s *scripted) Note(format string, a ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, a...))
}
func (s *scripted) Tell(string, ...any)           {}
func (s *scripted) Show(*Plan)                    {}
func (s *scripted) PINsSet()                      {}
func (s *scripted) Given() bool                   { return len(s.shares) > 0 || s.broken != nil }
func (s *scripted) Login(c context.Context) error { return s.card.Login(c, userPIN(), false) }

func (s *scripted) LoginNow(c context.Context) (bool, error)       { return true, s.Login(c) }
func (s *scripted) TypeBack(context.Context, string, string) error { return s.no }

func (s *scripted) Agree(_ context.Context, q Question) error {
	s.asked = append(s.asked, q)
	return s.no
}

func (s *scripted) NewPINs(context.Context, *Inventory) (pin, soPINs *secret.Bytes, err error) {
	s.pins++
	return userPIN(), soPIN(), nil
}

func (s *scripted) Gather(context.Context, *store.Catalog) (*Shares, error) {
	if s.broken != nil || len(s.shares) == 0 {
		return nil, errors.Join(errors.New("no shares"), s.broken)
	}
	return &Shares{Count: len(s.shares)}, nil
}

func (s *scripted) Open(context.Context, *store.Catalog) ([]*dkek.Share, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	var list []*dkek.Share
	for _, share := range s.shares {
		copied, err := dkek.ShareFromBytes(append([]byte{}, share.Bytes()...))
		if err != nil {
			return nil, err
		}
		list = append(list, copied)
	}
	return list, nil
}

// What a firmware update asks besides.

func (s *scripted) Check(context.Context, *store.Catalog) error    { return nil }
func (s *scripted) Warn(*Inventory, []faults.Fault)                {}
func (s *scripted) Offered(context.Context) error                  { return nil }
func (s *scripted) Ready(*Readiness, store.Copy, store.Entry)      {}
func (s *scripted) PutBack(context.Context, *Update) (bool, error) { return s.putBack, nil }
func (s *scripted) Became(context.Context, string) (string, error) { return "", nil }
func (s *scripted) GiveUp(_ context.Context, k KeyCoverage) (bool, error) {
	if s.giveUp == nil {
		return false, nil
	}
	return s.giveUp(k)
}

func (s *scripted) Copy(_ context.Context, cat *store.Catalog) (store.Copy, store.Entry, error) {
	return CopyCatalog(cat, filepath.Dir(cat.Path())+"/copies/", true)
}

// And a set-up.

func (s *scripted) NewLabel(context.Context) (string, error)    { return "ssh", nil }
func (s *scripted) ForbidUnblock(context.Context) (bool, error) { return false, nil }
func (s *scripted) Amiss(*SetUpReport) []string                 { return nil }

func (s *scripted) Share(ctx context.Context, j *SetUpJob, r *SetUpReport) (*dkek.Share, error) {
	list, err := s.Open(ctx, j.Catalog)
	if err != nil {
		return nil, err
	}
	key, err := dkek.Combine(list...)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	r.Note.KCV = key.KCV().String()
	return list[0], r.Note.Put(j.Catalog, j.Serial())
}

func (s *scripted) Sheet(_ context.Context, j *SetUpJob, r *SetUpReport) error {
	return r.Note.Put(j.Catalog, j.Serial())
}

// at is what a job works with on a token that is opened anew, as by the next run of
// the program, and who stands before it.
func at(token *softtoken.Token, cat *store.Catalog, shares ...*dkek.Share) (Work, *scripted, error) {
	card, err := schsm.Open(context.Background(), token)
	if err != nil {
		return Work{}, nil, err
	}
	card.SetSleep(func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
	s := &scripted{card: card, shares: shares}
	return Work{Card: card, Person: s, Catalog: cat, Trust: Trust{SoftFile: true}, MinSOTries: DefaultSOFloor}, s, nil
}

// memory gives tokens for drills.
func memory() (apdu.Transmitter, func() error, error) {
	blank, err := forDrills()
	if err != nil {
		return nil, nil, err
	}
	token := blank.Clone()
	return token, token.Close, nil
}

var forDrills = sync.OnceValues(func() (*softtoken.Token, error) { return softtoken.New(softtoken.Options{}) })

// everyPoint runs a job again and again, and pulls one of its tokens before each of
// its commands and between each command and its answer, none left out. start makes
// everything anew and gives the token, the job, and what must hold after it was
// pulled and err came of it. It tells how many points there were, and of how many
// commands.
func everyPoint(t *testing.T, what string, start func(testing.TB) (token *softtoken.Token, job func() error, after func(where string, err error))) {
	t.Helper()
	points, commands := 0, 0
	for _, stage := range []softtoken.Stage{softtoken.Before, softtoken.After} {
		for n := 1; ; n += toNextPoint() {
			token, job, after := start(t)
			token.Reset()
			pulled, count := pullCounting(token, stage, n)
			err := job()
			if !*pulled {
				if err != nil {
					t.Fatalf("%s, not pulled: %v", what, err)
				}
				commands = *count
				break
			}
			points++
			where := fmt.Sprintf("%s, stage %d, command %d", what, stage, n)
			if err == nil {
				t.Fatalf("%s: pulled, and nothing was said", where)
			}
			token.SetFault(nil)
			token.Reset()
			after(where, err)
		}
	}
	t.Logf("%s: %d points, of %d commands", what, points, commands)
	if points < 2*commands && !testing.Short() {
		t.Errorf("%s: only %d points of %d commands, each with two", what, points, commands)
	}
}

// pullCounting is pull, and counts the commands that came.
func pullCounting(token *softtoken.Token, stage softtoken.Stage, n int) (pulled *bool, commands *int) {
	pulled, commands = new(bool), new(int)
	token.SetFault(func(s softtoken.Stage, i int, _ apdu.Command) (apdu.SW, error) {
		*commands = max(*commands, i)
		if *pulled || s == stage && i == n {
			*pulled = true
			return 0, apdu.ErrGone
		}
		return 0, nil
	})
	return pulled, commands
}
