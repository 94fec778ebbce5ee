package backup

import (
	"context"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
)

// InitJob initialises a token and loads the shares of its recovery key.
type InitJob struct {
	Work
	Label string
	// Shares is how many make the recovery key; AsGiven: as many as are given or
	// as their parts tell, at least one. NoDKEK: none at all.
	Shares          int
	AsGiven, NoDKEK bool
	NoUnblock       bool
	PINTries        int
}

// InitReport is what came of it.
type InitReport struct {
	Serial string `json:"serial"`
	KCV    string `json:"kcv"`
	Shares int    `json:"-"`
	// Missing is how many of its shares are still to be loaded.
	Missing int `json:"-"`
}

// Run does the job. Everything that can be refused is, before anything is sent.
func (j *InitJob) Run(ctx context.Context) (*InitReport, error) {
	inv, err := Take(ctx, j.Card)
	if err != nil {
		return nil, err
	}
	if err := j.mayWipe(inv); err != nil {
		return nil, err
	}
	given := &Shares{}
	if j.Person.Given() {
		if given, err = j.Person.Gather(ctx, j.Catalog); err != nil {
			return nil, err
		}
	}
	if err := j.fit(given); err != nil {
		return nil, err
	}
	if j.NoDKEK {
		j.Person.Note("without a recovery key no key of this token can ever be exported: there will be no backup of them")
	}
	if err := j.agreeToInit(ctx, inv); err != nil {
		return nil, err
	}
	s := SetUp{Initialisation: schsm.Initialisation{Options: schsm.OptionUnblock, PINTries: j.PINTries, NoDKEK: j.NoDKEK, Label: j.Label}, Origin: "init"}
	if j.NoUnblock {
		s.Initialisation.Options = 0
	}
	kcvs, err := j.equip(ctx, inv, s, func(s *SetUp, shares []*dkek.Share) error {
		if !j.NoDKEK {
			s.Sets = []DomainSet{{Shares: j.Shares, Load: shares}}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := &InitReport{Serial: inv.Serial, Shares: j.Shares}
	if len(kcvs) > 0 {
		r.KCV = kcvText(kcvs[0])
	}
	if !j.NoDKEK {
		r.Missing = j.Shares - given.Count
	}
	return r, nil
}

// fit compares the number of shares that the token is to have with those that
// are here and with what their parts say.
func (j *InitJob) fit(given *Shares) error {
	if j.AsGiven {
		j.Shares = max(1, given.Count)
		for _, s := range given.Sets {
			j.Shares = max(j.Shares, s.Shares)
		}
	}
	if given.Count > j.Shares && !j.NoDKEK {
		return fail.Usagef("", "%s are given, but --shares says %d", count(given.Count, "share"), j.Shares)
	}
	for _, s := range given.Sets {
		if s.Shares != j.Shares {
			return fail.Usagef("", "%s: its recovery key has %s, the token would be set up for %d", s.Name, count(s.Shares, "share"), j.Shares)
		}
	}
	return nil
}
