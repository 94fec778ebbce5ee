package report

import (
	"errors"
	"fmt"
	"slices"

	"hsmbackup/backup"
	"hsmbackup/internal/fail"
	"hsmbackup/internal/schsm"
	"hsmbackup/store"
)

// Next is the one command that comes next; named: it has to name the token. done
// tells of which keys nothing is left to do.
func Next(list []SeenToken, named bool, cat *store.Catalog, done func(backup.KeyCoverage) bool) (string, error) {
	for _, s := range list {
		if next, err := s.nextForUpdate(cat, named); next != "" || err != nil {
			return next, err
		}
	}
	for _, s := range list {
		of := ""
		if named {
			of = " --token " + s.Argument
		}
		if !s.Inventory.Initialised {
			from, err := restorable(s.Inventory.Serial, cat)
			if err != nil {
				return "", err
			}
			if from != "" {
				return fmt.Sprintf("hsmbackup restore --init --from %s --share FILE%s", from, of), nil
			}
			return "hsmbackup setup" + of, nil
		}
		if next := nextForPIN(s.Inventory, of); next != "" {
			return next, nil
		}
		for _, d := range s.Inventory.Domains {
			if d.Outstanding > 0 {
				return "hsmbackup dkek load --share FILE" + of, nil
			}
		}
		worst := map[backup.Coverage]*backup.KeyCoverage{}
		for i, k := range s.Coverage {
			if worst[k.Coverage] == nil && !done(k) {
				worst[k.Coverage] = &s.Coverage[i]
			}
		}
		switch {
		case worst[backup.Missing] != nil, worst[backup.Stale] != nil, worst[backup.Unproven] != nil, worst[backup.Unasked] != nil:
			return "hsmbackup backup" + of, nil
		case worst[backup.NoShare] != nil && MadeUp(*worst[backup.NoShare]):
			return "hsmbackup dkek create --out share1.pbe, for another token: " + MadeUpRemedy, nil
		case worst[backup.NoShare] != nil:
			return "hsmbackup verify --offline --share FILE", nil
		case worst[backup.NotExportable] != nil:
			return fmt.Sprintf("hsmbackup accept %d --reason TEXT%s, if this key is meant to stay on this token", worst[backup.NotExportable].Key.Reference, of), nil
		}
	}
	switch {
	case len(list) == 0:
		return "plug in the token; hsmbackup doctor says why one that is plugged in is not seen", nil
	case keyless(list):
		for _, s := range list {
			state, err := cat.Read()
			if err != nil {
				return "", err
			}
			if _, gone := backup.Vanished(s.Inventory, state); len(gone) > 0 {
				return fmt.Sprintf("hsmbackup restore --token %s, which puts back what its newest snapshot holds", s.Argument), nil
			}
		}
		return "make keys on it (pkcs11-tool --login --keypairgen), then hsmbackup backup", nil
	case cat != nil:
		return "hsmbackup check, now and then", nil
	}
	return "", nil
}

// nextForUpdate goes on with a firmware update that the token belongs to.
func (s SeenToken) nextForUpdate(cat *store.Catalog, named bool) (string, error) {
	if cat == nil {
		return "", nil
	}
	u, _, err := backup.FindUpdate(cat, s.Inventory, "")
	var several *fail.Error
	if errors.As(err, &several) {
		return "hsmbackup firmware-update --successor-of SERIAL", nil
	}
	if u == nil || err != nil || u.Serial != s.Inventory.Serial && s.Inventory.Initialised && u.Phase != backup.UpdateRestoring {
		return "", err
	}
	next := "hsmbackup firmware-update"
	if u.Phase != backup.UpdateEmptying && u.Updated(s.Inventory) {
		next += " --share FILE"
	}
	if named {
		next += " --token " + s.Argument
	}
	return next, nil
}

// keyless tells whether there is no key to back up on any token.
func keyless(list []SeenToken) bool {
	return !slices.ContainsFunc(list, func(s SeenToken) bool { return len(s.Coverage) > 0 })
}

// nextForPIN is what comes next for a token whose PIN is blocked, or about to
// be: a backup would not get past it. named is the --token of commands.
func nextForPIN(inv *backup.Inventory, named string) string {
	switch {
	case inv.PIN.Blocked && inv.SOPIN.Blocked:
		return "hsmbackup restore --init --share FILE, onto another token: PIN and SO-PIN of this one are blocked for good"
	case inv.PIN.Blocked && inv.Options&schsm.OptionUnblock != 0:
		return "pkcs15-tool --unblock-pin, which asks for the SO-PIN: the PIN is blocked"
	case inv.PIN.Blocked:
		return "hsmbackup restore --init --share FILE" + named + ", if all of its keys are covered: the PIN is blocked for good, and only a new start sets another"
	case inv.PIN.Tries == 1:
		return "hsmbackup backup --confirm " + inv.Serial + named + ", once you are sure of the PIN: one try is left, a wrong one blocks it, the right one brings all tries back"
	}
	return ""
}

// restorable names the token in the catalog that a fresh one may be meant to
// replace: its own serial, or the only one; the ID of an adopted snapshot where
// there is no other.
func restorable(serial string, cat *store.Catalog) (string, error) {
	state, err := cat.Read()
	if err != nil {
		return "", err
	}
	name := ""
	for _, s := range state.Latest() {
		switch {
		case s.Adopted && name == "":
			name = s.ID
		case s.Adopted, state.Succeeded(s.Token.Serial) != "" && s.Token.Serial != serial:
		case s.Token.Serial == serial:
			return serial, nil
		default:
			name = s.Token.Serial
		}
	}
	return name, nil
}
