package main

import (
	"context"

	"hsmbackup/backup"
	"hsmbackup/internal/remote"
	"hsmbackup/store"
)

// checkCopyPlace refuses a place that cannot take the copy, as far as that shows
// before the copy is made.
func checkCopyPlace(cat *store.Catalog, to string, sameDisk bool) error {
	if _, _, ok := remote.Place(to); ok {
		return remote.Check()
	}
	return backup.CheckCopyPlace(cat, to, sameDisk)
}

// copyCatalog copies the catalog to another disk, or to another host.
func (a *app) copyCatalog(ctx context.Context, cat *store.Catalog, to string, sameDisk bool) (store.Copy, store.Entry, error) {
	if host, folder, ok := remote.Place(to); ok {
		return remote.CopyCatalog(ctx, a.Console, a.Secrets.Environ(), cat, host, folder)
	}
	return backup.CopyCatalog(cat, to, sameDisk)
}
