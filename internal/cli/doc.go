// Package cli is what the verbs of the command line stand on: the flags that they
// share, the catalog and the tokens that these name, the desk at which shares are
// shown, the memory of refused secrets, and what is said of an error. It knows no
// verb, decides nothing of a job, and no framework of commands.
package cli
