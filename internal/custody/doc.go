// Package custody is about the recovery key and those who keep it: what is given
// to bring it together, share files and parts of custodians; handing parts out
// and calling the roll; the sheets that are printed. Whom it needs to show
// something to, or to have something typed by, sits at a Desk; it knows no
// terminal, no reader and no token.
//
// Shares, parts and passwords are wiped after use. What fails is a
// *fail.Error in words for people.
package custody
