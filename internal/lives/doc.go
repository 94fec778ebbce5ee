// Package lives plays random life histories of tokens through the whole program,
// in process, against an oracle that reads the software tokens' private keys and
// opens every blob of the catalog itself. It holds the program to this:
//
//   - what is called covered comes back: this private key, with this description
//     and this certificate;
//   - nothing is destroyed that would not come back, unless it was named;
//   - a success that is reported is true, a failure that says "nothing was
//     changed" too;
//   - after any interruption the next run finishes, as if there had been none;
//   - of a line of tokens, old serial and new, the newest state is restored.
//
// A history is a list of steps, any part of which still plays, so that one that
// fails is cut down to the shortest that fails in the same way. What each file
// does:
//
//	history.go   steps, at random or from JSON; kinds.go which there are
//	world.go     tokens, catalogs, recovery keys, and the course of a history
//	hand.go      what other programs do at a token; fate.go what befalls the rest
//	command.go   the command lines of a step; program.go runs one, and cuts it off
//	truth.go     what a token holds; record.go what a catalog holds
//	judge.go     the oracle: what every command is held to; covered.go, kept.go,
//	             restored.go and updated.go what some are
//	last.go      the end of each history: the token is lost
//	search.go    plays, cuts down, counts
package lives
