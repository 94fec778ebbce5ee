// Package sheet makes what people are handed on paper: the sheet of a custodian
// with a part, and the sheet of a single admin. Each is laid out twice from the
// same words: as text, and as a PDF of one page with the part as a QR code. The
// same values give the same bytes.
//
// The text of a custodian's sheet is a part file: what is for people begins with
// #, and the part stands between, each line with its check.
//
// A PDF is set in the Go fonts, which come with the program and are embedded as
// far as they are used. They know Latin, Greek and Cyrillic; a character that
// they lack is printed as its number, [U+738B], and never as another one. The
// text form has all characters as they are, but for those that are not seen,
// which are replaced.
//
// Secrets come in as bytes and what is made is bytes, for the caller to clear.
// A PDF has copies on the way that cannot be cleared: the libraries for PDF and
// QR codes take strings and keep pages in buffers of their own, which stay in
// the heap until the collector uses the memory again. Text has none.
// Nothing secret is in a PDF's title or other metadata.
package sheet
