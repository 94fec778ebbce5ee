package console

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// Output is stdout; it remembers that a write failed, so that a result cut
// short by a full disk is no success.
type Output struct {
	W   io.Writer
	err error
	// nowhere: what is written is thrown away without an error; used: something
	// was written.
	nowhere, used bool
}

// Write writes as W does, until that fails once.
func (o *Output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	o.used = true
	n, err := o.W.Write(b)
	o.err = err
	return n, err
}

// standardOutput is that of this process.
func standardOutput() *Output { return &Output{W: os.Stdout, nowhere: leadsNowhere(os.Stdout)} }

// leadsNowhere tells whether the program was started with its standard output
// closed. The Go runtime opens the null device in its place, for reading too,
// which a shell's >/dev/null does not.
func leadsNowhere(f *os.File) bool {
	if runtime.GOOS == "windows" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	null, err := os.Stat(os.DevNull)
	if err != nil || !os.SameFile(info, null) {
		return false
	}
	_, err = f.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// lost adds to how a command ended that its result could not be written.
func (o *Output) lost(err error, changed bool) error {
	if o.err == nil {
		return err
	}
	why := Cause(o.err)
	var path *fs.PathError
	if errors.As(o.err, &path) {
		why = Cause(path.Err)
	}
	f := &Failure{Exit: ExitFailed, Code: "output-lost", Err: o.err,
		Message: "the result could not be written to standard output: " + why}
	if changed {
		f.Hint("the work itself is done; only what would have been printed is lost")
	}
	var done *Outcome
	switch {
	case errors.As(err, &done):
		f.Message = done.Message + "; and " + f.Message
		f.Hints = append(f.Hints, done.Hints...)
		if f.Exit = done.Exit; changed {
			f.Exit = ExitChanged
		}
	case err != nil && !errors.Is(err, o.err):
		return err // something else went wrong, and that is reported
	}
	return f
}
