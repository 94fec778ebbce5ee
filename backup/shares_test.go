package backup

import (
	"context"
	"errors"
	"testing"

	"hsmbackup/dkek"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
)

// A token notices no wrong share: what it has in the end is asked, and shares
// that cancel each other are not passed over.
func TestLoadSharesLooksAtWhatCameOut(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		second byte
		expect dkek.KCV
		code   string
	}{
		{1, dkek.KCV{}, "zero-dkek"},
		{2, dkek.KCV{1}, "kcv-mismatch"},
		{2, dkek.KCV{}, ""},
	} {
		_, card := newToken(t, "3.6", "SOFT0200001")
		if err := card.Initialise(ctx, schsm.Initialisation{PIN: userPIN(), SOPIN: soPIN(), Shares: 2}); err != nil {
			t.Fatal(err)
		}
		_, err := LoadShares(ctx, card, 0, []*dkek.Share{newShare(t, 1), newShare(t, c.second)}, c.expect)
		var job *fail.Error
		if (err == nil) != (c.code == "") || c.code != "" && (!errors.As(err, &job) || job.Code != c.code || job.Class != fail.Changed) {
			t.Errorf("%q: %v", c.code, err)
		}
	}
}
