package lives

import (
	"maps"
	"slices"
)

// kind is what can happen: by hand (another program at the token, or fate), or by
// a command of the program.
type kind struct {
	weight  int
	ways    []string
	with    []string
	hand    func(*World, *Token, Step) error
	command func(*World, *Token, *Catalog, Step) *command
	// looks: the command leaves tokens as they are, and is not cut off.
	looks bool
}

// kinds is filled in init: the steps refer to it.
var kinds map[string]kind

// weighted has each kind as often as it weighs.
var weighted []string

func init() {
	kinds = map[string]kind{
		"token": {weight: 2, hand: (*World).newToken, ways: []string{"3.5", "3.6", "3.4", "4.1", "3.5", "3.1"}},

		"key":         {weight: 16, hand: (*World).makeKey, ways: []string{"ec", "ec", "rsa", "aes", "aes", "ec imported", "ec locked", "ec listed", "aes listed", "ec counted"}},
		"use":         {weight: 2, hand: (*World).useKey},
		"delete":      {weight: 4, hand: (*World).deleteKey, ways: []string{"whole", "key alone", "with description"}},
		"remake":      {weight: 5, hand: (*World).remakeKey, ways: []string{"", "", "", "", "old certificate"}},
		"certificate": {weight: 4, hand: (*World).swapCertificate, ways: []string{"own", "own", "foreign", "none"}},
		"data":        {weight: 7, hand: (*World).writeData, ways: []string{"public", "protected", "protected", "certificate"}},
		"delete data": {weight: 2, hand: (*World).deleteData},
		"unwrap":      {weight: 4, hand: (*World).unwrapForeign, ways: []string{"as it was", "relabelled", "bare", "in place"}},
		"relabel":     {weight: 3, hand: (*World).relabel, ways: []string{"label", "id"}},
		"move":        {weight: 2, hand: (*World).moveKey},
		"foreign":     {weight: 1, hand: (*World).foreignInit},
		"domains":     {weight: 2, hand: (*World).initDomains},
		"vendor":      {weight: 5, hand: (*World).vendor, ways: []string{"3.6", "4.1", "3.6", "4.1", "3.1"}},

		"copy catalog": {weight: 3, hand: (*World).copyCatalog},
		"old catalog":  {weight: 3, hand: (*World).oldCatalog},
		"damage":       {weight: 1, hand: (*World).damageCatalog},
		"clock":        {weight: 3, hand: (*World).jump, ways: []string{"1", "7", "31", "41", "400", "-1", "-60"}},

		"init":    {weight: 10, command: (*World).initialise, ways: []string{"", "", "", "", "", "no key", "made up"}},
		"load":    {weight: 1, command: (*World).load},
		"backup":  {weight: 16, command: (*World).backup, with: []string{"attachment", "no proof", "no attachment"}},
		"verify":  {weight: 3, command: (*World).verify},
		"offline": {weight: 3, command: (*World).offline},
		"drill":   {weight: 1, command: (*World).drill, looks: true},
		"check":   {weight: 2, command: (*World).check, looks: true},
		"accept":  {weight: 2, command: (*World).accept},
		"adopt":   {weight: 2, command: (*World).adopt, ways: []string{"", "here", "share"}},
		"rekey":   {weight: 2, command: (*World).rekey},
		"rotate":  {weight: 2, command: (*World).rotate},
		"clone":   {weight: 4, command: (*World).clone, with: []string{"share", "share"}},
		"restore": {weight: 15, command: (*World).restore, ways: []string{"", "", "snapshot", "latest", "serial", "old serial", "export"}, with: []string{"replace", "at", "share", "journal", "one key"}},
		"renew":   {weight: 5, command: (*World).renew, ways: []string{"", "", "snapshot", "latest", "serial", "old serial", "export"}, with: []string{"another share"}},
		"update":  {weight: 7, command: (*World).update, ways: []string{"share", "share", "checked", ""}, with: []string{"discard"}},
		"go on":   {weight: 6, command: (*World).goOn},
		"abort":   {weight: 2, command: (*World).abort},
		"settle":  {weight: 2, command: (*World).settle, ways: []string{"now", "before"}},
	}
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		for range kinds[name].weight {
			weighted = append(weighted, name)
		}
	}
}
