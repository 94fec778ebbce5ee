package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"hsmbackup/internal/console"
	"hsmbackup/internal/harmless"
	"hsmbackup/store"
)

// CatalogPath is where the catalog is: --catalog, else $HSMBACKUP_CATALOG,
// else hsmbackup/catalog.db in the user's data directory.
func (a *App) CatalogPath() (string, error) {
	if a.Flags.Catalog != "" {
		return a.Flags.Catalog, nil
	}
	if p, ok := a.lookupEnv("HSMBACKUP_CATALOG"); ok && p != "" {
		return p, nil
	}
	dir, err := a.dataDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "hsmbackup", "catalog.db"), nil
}

// dataDir is the user's data directory: XDG_DATA_HOME or ~/.local/share,
// ~/Library/Application Support on macOS, %LocalAppData% on Windows.
func (a *App) dataDir() (string, error) {
	const give = "give --catalog or set HSMBACKUP_CATALOG"
	variable := "XDG_DATA_HOME"
	if runtime.GOOS == "windows" {
		variable = "LocalAppData"
	}
	if runtime.GOOS != "darwin" {
		if dir, ok := a.lookupEnv(variable); ok && filepath.IsAbs(dir) {
			return dir, nil
		}
	}
	home, err := os.UserHomeDir()
	switch {
	case err != nil || runtime.GOOS == "windows":
		return "", console.Failf("no-catalog", give, "there is no data directory to keep the catalog in")
	case runtime.GOOS == "darwin":
		return filepath.Join(home, "Library", "Application Support"), nil
	}
	return filepath.Join(home, ".local", "share"), nil
}

// Named puts the path before an error of the store.
func Named(path string, err error) error {
	if err == nil {
		return nil
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return console.Failf("is-a-folder", "name the file in it, such as --catalog "+harmless.Word(filepath.Join(path, "catalog.db")), "%s is a folder, not a catalog", path)
	}
	var at *fs.PathError
	if errors.As(err, &at) || strings.HasPrefix(err.Error(), "catalog "+path) || strings.HasPrefix(err.Error(), "journal "+path) {
		return err
	}
	return fmt.Errorf("catalog %s: %w", path, err)
}

// openCatalog opens a catalog under the clock of this run.
func (a *App) openCatalog(path string, writable bool) (*store.Catalog, error) {
	options := a.Storing()
	if a.ReadOnly {
		options = append(options, store.ReadOnly())
	}
	return store.Open(path, writable, options...)
}

func (a *App) Storing() []store.Option {
	return []store.Option{store.Clock(a.Now), store.BeforeWrite(a.BeforeWrite), store.OnMachine(a.machine()), store.Listen(a.hear)}
}

// machine is what this computer keeps for itself: in the user's data directory,
// wherever the catalog is. Without one nothing is kept.
func (a *App) machine() *store.Machine {
	dir, err := a.dataDir()
	if err != nil {
		return nil
	}
	return store.MachineAt(filepath.Join(dir, "hsmbackup", "recipients.json"))
}

// hear passes on what a job found to say of the catalog.
func (a *App) hear(what string, damage bool) {
	if damage {
		a.damaged = errors.Join(a.damaged, errors.New(what))
		return // said at the end
	}
	a.Note("%s", what)
}

// LookCatalog opens the catalog for looking. Without one it is nil.
func (a *App) LookCatalog() (*store.Catalog, error) { return a.catalogIfThere(false) }

// ExistingCatalog opens the catalog for writing; without one it is nil.
func (a *App) ExistingCatalog() (*store.Catalog, error) { return a.catalogIfThere(true) }

func (a *App) catalogIfThere(writable bool) (*store.Catalog, error) {
	path, err := a.CatalogPath()
	if err != nil {
		return nil, err
	}
	cat, err := a.openCatalog(path, writable)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return a.opened(cat, Named(path, err))
}

// opened notes what is damaged of a catalog that was opened. The job goes on with
// what is whole, and ends with 5.
func (a *App) opened(cat *store.Catalog, err error) (*store.Catalog, error) {
	if err != nil {
		return nil, err
	}
	state, err := cat.Read()
	if err != nil {
		CloseCatalog(cat)
		return nil, err
	}
	if err := state.Err(); err != nil {
		a.damaged = fmt.Errorf("catalog %s: %w", cat.Path(), err)
	}
	return cat, nil
}

// NeedCatalog is LookCatalog for verbs that are nothing without one.
func (a *App) NeedCatalog() (*store.Catalog, error) {
	cat, err := a.LookCatalog()
	if err == nil && cat == nil {
		return nil, a.NoCatalog()
	}
	return cat, err
}

func (a *App) NoCatalog() error {
	path, err := a.CatalogPath()
	if err != nil {
		return err
	}
	return console.Failf("no-catalog", "`hsmbackup backup` makes one; --catalog names another place", "there is no catalog at %s", path)
}

// RecordingCatalog opens the catalog of a verb that records what it found: for
// writing if that is allowed and nobody else has it open, else for looking.
// The second result says why it is not recorded.
func (a *App) RecordingCatalog() (cat *store.Catalog, why string, err error) {
	path, err := a.CatalogPath()
	if err != nil {
		return nil, "", err
	}
	cat, err = a.openCatalog(path, true)
	switch {
	case err == nil:
		cat, err = a.opened(cat, nil)
		return cat, "", err
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", a.NoCatalog()
	case errors.Is(err, store.ErrReadOnly):
		why := err.Error()
		cat, err = a.openCatalog(path, false)
		cat, err = a.opened(cat, Named(path, err))
		return cat, why, err
	}
	return nil, "", Named(path, err)
}

// MakeCatalog makes the catalog and says so.
func (a *App) MakeCatalog() (*store.Catalog, error) {
	path, err := a.CatalogPath()
	if err != nil {
		return nil, err
	}
	cat, err := store.Create(path, a.Storing()...)
	if err == nil {
		a.Note("new catalog: %s", path)
	}
	return cat, Named(path, err)
}

// CloseCatalog closes a catalog that may be nil.
func CloseCatalog(cat *store.Catalog) {
	if cat != nil {
		_ = cat.Close() // everything that was written is on the disk already
	}
}
