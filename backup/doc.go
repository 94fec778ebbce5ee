// Package backup does the jobs: it takes the inventory of a token, says which
// keys a catalog covers, backs up, proves, checks, plans, restores, exports.
//
// A token is photographed into a catalog, and a catalog is played back onto a
// token. The DKEK is the only thing that can open what lies in between, and
// for the daily job nobody needs it: the token proves its own backup.
//
// It works on a *schsm.Card and a *store.Catalog and knows no reader, no
// terminal and no database engine.
package backup
