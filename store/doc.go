// Package store keeps the catalog: snapshots of tokens, the log of everything
// that happened to them, anchors, and a journal of work under way, in one
// bbolt file. docs/format.md describes the file for other implementations.
//
// What it promises:
//
//   - A snapshot is recorded whole or not at all, in one transaction, and is
//     read back and compared before AddSnapshot reports success.
//   - Every stored value carries or is named by its SHA-256, since bbolt
//     checksums only its meta pages; log entries and snapshots are chained.
//     Whatever is read is checked; a mismatch is ErrDamaged, with the place.
//   - A file that is truncated, torn or no catalog at all gives an error. It
//     never crashes the program, although bbolt maps the file into memory:
//     the page structure is checked before bbolt follows it.
//   - Opening changes no byte; who opens read-only cannot write.
//
// The store knows values and not their meaning: it parses no key blob and no
// certificate. Callers hand in no secrets in clear: nothing is encrypted here.
//
// A Catalog may be used by several goroutines. A writable one locks out every
// other process; read-only ones share the file.
package store
