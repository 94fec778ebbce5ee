package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"hsmbackup/internal/console"
	"hsmbackup/internal/schsm"
	"hsmbackup/internal/secret"
	"hsmbackup/internal/softtoken"
)

const secretsOfTest = " --pin file:PIN --so-pin file:SO --password file:PW"

// fullToken makes the token old.tok with one key, backed up, under the recovery key
// of the parts p/a.txt and p/b.txt.
func fullToken(t *testing.T) {
	t.Helper()
	workIn(t)
	for name, content := range map[string]string{"PIN": "648219", "SO": "3537363231383830", "PW": "ordinary trumpet grit clinic permit joke abandon"} {
		secretFile(t, name, content)
	}
	runs(t, 0, "", "dkek create --split 2/2 --custodian a --custodian b --out p")
	runs(t, 0, "", "soft new old.tok --firmware 3.5 --serial SOFT0200001")
	runs(t, 0, "", "init --token soft:old.tok --label ssh --share p/a.txt --share p/b.txt --yes"+secretsOfTest)
	keyMade(t, "old.tok", "one")
	runs(t, 0, "1 of 1 key restorable", "backup --token soft:old.tok --pin file:PIN")
}

func keyMade(t *testing.T, file, label string) {
	t.Helper()
	runs(t, 0, "", "soft keygen "+file+" --type ec:prime256v1 --id 01 --pin file:PIN --label "+label)
}

// emptiedToken is fullToken after the first half of a firmware update.
func emptiedToken(t *testing.T) {
	t.Helper()
	fullToken(t)
	runs(t, 0, "SOFT0200001 is empty", "firmware-update --token soft:old.tok --copy-to copies/ --same-disk-anyway --share p/a.txt --share p/b.txt --yes --confirm SOFT0200001"+secretsOfTest)
}

// updatedToken is emptiedToken after the vendor's part.
func updatedToken(t *testing.T) {
	t.Helper()
	emptiedToken(t)
	runs(t, 0, "", "soft update old.tok --firmware 3.6 --serial SOFT0400001")
}

// TestFault01Shares (issue 9, fault 1): whatever is wrong with --share is said, by
// every job that initialises a token and loads it.
func TestFault01Shares(t *testing.T) {
	updatedToken(t)
	runs(t, 0, "", "soft new spare.tok --serial SOFT0400002")
	secretFile(t, "nothing", "not a share")
	for _, job := range []string{
		"restore --init --from SOFT0200001 --token soft:spare.tok --confirm SOFT0400002" + secretsOfTest,
		"firmware-update --token soft:old.tok --confirm SOFT0400001" + secretsOfTest,
		"init --token soft:spare.tok --confirm SOFT0400002" + secretsOfTest,
	} {
		for _, c := range []struct {
			exit         int
			shares, says string
		}{
			{1, " --share p/missing.txt", "no such file"},
			{1, " --share p/a.txt", "parts are missing"},
			{1, " --share p/a.txt --share p/a.txt", "hold the same part"},
			{1, " --share nothing", "is no share"},
			{2, " --share prompt", "terminal"},
		} {
			exit, _, stderr := runIn(t, strings.Fields(job+c.shares)...)
			if exit != c.exit && exit != console.ExitChanged || !strings.Contains(stderr, c.says) {
				t.Errorf("%s%s: exit %d, %s", job, c.shares, exit, stderr)
			}
		}
	}
	runs(t, 2, "--init needs the shares", "restore --init --from SOFT0200001 --token soft:spare.tok --confirm SOFT0400002"+secretsOfTest)
	runs(t, 0, "not initialised", "status --token soft:spare.tok")
	runs(t, 0, "the successor of SOFT0200001", "firmware-update --token soft:old.tok --confirm SOFT0400001 --share p/a.txt --share p/b.txt"+secretsOfTest)
}

// TestFault07OldSerial (issue 9, fault 7): a token is one thing under all of its
// serials, and its newest state is what every verb means by any of them. An older
// one is named by its ID.
func TestFault07OldSerial(t *testing.T) {
	updatedToken(t)
	runs(t, 0, "", "firmware-update --token soft:old.tok --confirm SOFT0400001 --share p/a.txt --share p/b.txt"+secretsOfTest)
	runs(t, 0, "", "soft keygen old.tok --type ec:prime256v1 --id 02 --pin file:PIN --label two")
	runs(t, 0, "2 of 2 keys", "backup --token soft:old.tok --pin file:PIN")
	runs(t, 0, "", "soft new spare.tok --serial SOFT0400002")
	const onto = " --token soft:spare.tok"
	const says = "SOFT0200001 goes on as SOFT0400001: its newest snapshot is "
	for _, line := range []string{"plan --from SOFT0200001" + onto, "show SOFT0200001", "export out SOFT0200001",
		"drill SOFT0200001 --share p/a.txt --share p/b.txt", "verify --offline SOFT0200001 --share p/a.txt --share p/b.txt"} {
		exit, stdout, stderr := runIn(t, strings.Fields(line)...)
		if exit != 0 || !strings.Contains(stderr, says) || line[:6] != "export" && !strings.Contains(stdout, `"two"`) {
			t.Errorf("%s: exit %d\n%s%s", line, exit, stdout, stderr)
		}
	}
	restore := "restore --init --share p/a.txt --share p/b.txt --confirm SOFT0400002" + onto + secretsOfTest
	runs(t, 0, "2 of 2 keys are on SOFT0400002", restore+" --from SOFT0200001")
	// Unnamed it is the only token that there is, and the oldest state goes by its ID.
	runs(t, 0, `"two"`, "plan"+onto)
	_, list, _ := runIn(t, "list")
	id := regexp.MustCompile(`[0-9a-f]{12}`).FindString(list)
	runs(t, 0, `"one"`, "show "+id)
	if exit, stdout, _ := runIn(t, "show", id); exit != 0 || strings.Contains(stdout, `"two"`) {
		t.Errorf("%s is not the first snapshot:\n%s\n%s", id, list, stdout)
	}
}

// TestFault08Emptied (issue 9, fault 8): a catalog that knows nothing of an update
// takes no snapshot of the emptied token by itself; where somebody has said so, a
// restore of it says what it is.
func TestFault08Emptied(t *testing.T) {
	fullToken(t)
	copyFile(t, "c.db", "before.db")
	runs(t, 0, "SOFT0200001 is empty", "firmware-update --token soft:old.tok --copy-to copies/ --same-disk-anyway --share p/a.txt --share p/b.txt --yes --confirm SOFT0200001"+secretsOfTest)
	t.Setenv("HSMBACKUP_CATALOG", "before.db")
	runs(t, 6, "holds no key any more", "backup --token soft:old.tok --pin file:PIN --yes")
	copyFile(t, "old.tok", "emptied.tok")
	runs(t, 0, "1 of 1 key", "restore --token soft:old.tok --pin file:PIN --yes")
	copyFile(t, "emptied.tok", "old.tok")
	runs(t, 0, "snapshot", "backup --token soft:old.tok --pin file:PIN --confirm SOFT0200001")
	for _, verb := range []string{"plan --token soft:old.tok", "restore --token soft:old.tok --pin file:PIN --yes"} {
		runs(t, 3, "holds no key, and ", verb)
	}
	_, _, stderr := runIn(t, "plan", "--token", "soft:old.tok")
	from := regexp.MustCompile(`--from ([0-9a-f]+)`).FindString(stderr)
	runs(t, 0, "1 of 1 key", "restore --token soft:old.tok --pin file:PIN --yes "+from)
}

// TestFault19NotBack (issue 9, fault 19): an update is over only when the keys are
// back, by what they are and not by their numbers.
func TestFault19NotBack(t *testing.T) {
	emptiedToken(t)
	copyFile(t, "old.tok", "emptied.tok")
	copyFile(t, "c.db", "emptied.db")
	shares := " --share p/a.txt --share p/b.txt --confirm SOFT0200001" + secretsOfTest
	keyMade(t, "old.tok", "one") // under the number of the old one
	for _, c := range []struct {
		exit       int
		line, says string
	}{
		{3, "firmware-update --token soft:old.tok" + shares, `is not empty: it holds "one" (key 1)`},
		{3, "firmware-update --abort --token soft:old.tok" + shares, "another key"},
		{6, "backup --token soft:old.tok --pin file:PIN", "a firmware update has emptied"},
		{3, "restore --token soft:old.tok --yes --pin file:PIN", "another key"},
		{3, "firmware-update --token soft:old.tok --copy-to more/ --same-disk-anyway --yes" + shares, "is not empty"},
	} {
		exit, stdout, stderr := runIn(t, strings.Fields(c.line)...)
		if exit != c.exit || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%s: exit %d\n%s%s", c.line, exit, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, "everything is on it again") || strings.Contains(stdout, "still empty") {
			t.Errorf("%s: exit %d, and says what is not so:\n%s%s", c.line, exit, stdout, stderr)
		}
	}
	runs(t, 3, "firmware update of SOFT0200001", "status --token soft:old.tok")

	// Whoever puts the right key back by a restore has ended it, each key used.
	copyFile(t, "emptied.tok", "old.tok")
	copyFile(t, "emptied.db", "c.db")
	runs(t, 0, "is still empty", "firmware-update --token soft:old.tok"+shares)
	runs(t, 0, "the firmware update of SOFT0200001 is given up: everything is on it again", "restore --token soft:old.tok --yes --pin file:PIN")
	runs(t, 0, "1 of 1 key", "backup --token soft:old.tok --pin file:PIN")
}

// TestFault23ProtectedData (issue 9, fault 23): shares that are given are opened
// before the snapshot is taken, so that what the PIN protects is sealed in it by the
// first run.
func TestFault23ProtectedData(t *testing.T) {
	fullToken(t)
	writeObject(t, "old.tok", 0xCD01, "the safe's combination")
	t.Setenv("HSMBACKUP_CATALOG", "new.db") // it has seen no shares yet
	runs(t, 0, "SOFT0200001 is empty", "firmware-update --token soft:old.tok --copy-to copies/ --same-disk-anyway --share p/a.txt --share p/b.txt --yes --confirm SOFT0200001"+secretsOfTest)
	runs(t, 0, "", "soft update old.tok --firmware 3.6 --serial SOFT0400001")
	runs(t, 0, "the successor of SOFT0200001", "firmware-update --token soft:old.tok --confirm SOFT0400001 --share p/a.txt --share p/b.txt"+secretsOfTest)

	// What can be refused is, before anything is recorded.
	fullToken(t)
	before := listed(t)
	update := "firmware-update --token soft:old.tok --copy-to copies/ --same-disk-anyway --yes --confirm SOFT0200001" + secretsOfTest
	runs(t, 6, "nobody has shown shares", update)
	runs(t, 6, "is the KCV of no recovery key", update+" --shares-checked 0123456789ABCDEF")
	runs(t, 1, "parts are missing", update+" --share p/a.txt")
	runs(t, 0, "", "dkek create --split 2/2 --custodian c --custodian d --out q")
	runs(t, 6, "belong to no recovery key of this token", update+" --share q/c.txt --share q/d.txt")
	if now := listed(t); now != before {
		t.Errorf("a snapshot was taken all the same:\n%s", now)
	}
}

func listed(t *testing.T) string {
	t.Helper()
	_, list, _ := runIn(t, "list")
	return list
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// writeObject writes a file onto a software token, logged in.
func writeObject(t *testing.T, file string, fid schsm.FID, content string) {
	t.Helper()
	soft, err := softtoken.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer soft.Close()
	card, err := schsm.Open(t.Context(), soft)
	if err == nil {
		err = card.Login(t.Context(), secret.New([]byte("648219")), false)
	}
	if err == nil {
		err = card.WriteFile(t.Context(), fid, []byte(content))
	}
	if err != nil {
		t.Fatal(err)
	}
}
