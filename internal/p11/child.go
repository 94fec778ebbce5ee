package p11

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"hsmbackup/internal/harmless"
	"hsmbackup/internal/pubkey"
	"hsmbackup/internal/secret"
)

// A PKCS#11 module is a foreign library, and it is handed the PIN. So it is
// loaded into a process of its own, this program once more: whatever it does to
// that one, the work here is done and recorded, and the copies of the PIN that
// it makes end with it.

// ChildArgument is the only argument of that process.
const ChildArgument = "-pkcs11-child"

// job is what the child is told, on one line; the PIN follows it.
type job struct {
	Module string   `json:"module"`
	Serial string   `json:"serial"`
	Keys   []jobKey `json:"keys"`
}

type jobKey struct {
	ID     []byte `json:"id"`
	Public []byte `json:"public"` // SPKI
}

// answer is what the child says, on the last line: the module may write to
// the same output.
type answer struct {
	Results []Result `json:"results"`
	// Error is why none was used, Code its kind.
	Error string `json:"error"`
	Code  string `json:"code"`
}

// codes are the kinds of errors by their names between the processes, which
// are those of --json.
var codes = map[string]error{
	"built-without-pkcs11": ErrNotBuilt,
	"no-module":            ErrNoModule,
	"bad-module":           ErrModule,
	"not-in-pkcs11":        ErrNoToken,
	"no-pkcs11-login":      ErrPIN,
}

// Code names the kind of an error of this package, "" of any other.
func Code(err error) string {
	for code, kind := range codes {
		if errors.Is(err, kind) {
			return code
		}
	}
	return ""
}

// Child is the work of the process that loads the module.
func Child(in io.Reader, out io.Writer) error {
	var said answer
	var err error
	if said.Results, err = childUse(in); err != nil {
		said.Error, said.Code = err.Error(), Code(err)
	}
	line, err := json.Marshal(said)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\n%s\n", line)
	return err
}

func childUse(in io.Reader) ([]Result, error) {
	all, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	line, rest, found := bytes.Cut(all, []byte("\n"))
	var todo job
	if err := json.Unmarshal(line, &todo); err != nil || !found {
		return nil, errors.New("this is for hsmbackup itself, not for people")
	}
	pin := secret.New(rest)
	defer pin.Wipe()
	var keys []Key
	for _, k := range todo.Keys {
		public, err := pubkey.ParseSPKI(k.Public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, Key{ID: k.ID, Public: public})
	}
	return Use(todo.Module, todo.Serial, pin, keys)
}

// Bounds of how long a module may take: to load, and for each key.
const (
	startTime = 2 * time.Minute
	perKey    = 30 * time.Second
)

// UseInChild is Use in another process. Its error is for what kept all of the keys
// from being used.
func UseInChild(ctx context.Context, module, serial string, pin *secret.Bytes, keys []Key) ([]Result, error) {
	todo := job{Module: module, Serial: serial}
	for _, k := range keys {
		todo.Keys = append(todo.Keys, jobKey{k.ID, k.Public.SPKI()})
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(todo)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, startTime+time.Duration(len(keys))*perKey)
	defer cancel()
	cmd := exec.CommandContext(limited, self, ChildArgument)
	cmd.Args[0] = "hsmbackup"
	cmd.WaitDelay = time.Second
	// What these make a module or its tracer write down, the PIN is a part of.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "OPENSC_DEBUG=") || strings.HasPrefix(v, "PKCS11SPY")
	})
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: the process for it does not start: %v", ErrModule, cause(err))
	}
	// Written as it lies here: a reader in between would keep a copy.
	_, lost := in.Write(append(line, '\n'))
	if lost == nil {
		_, lost = in.Write(pin.Bytes())
	}
	_ = in.Close() // a process that has ended is noticed below
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var said answer
	lines := bytes.Split(bytes.TrimSpace(stdout.Bytes()), []byte("\n"))
	switch {
	case limited.Err() != nil:
		return nil, fmt.Errorf("%w: %s does not answer; another program may hold the token", ErrModule, module)
	case json.Unmarshal(lines[len(lines)-1], &said) != nil || err != nil || lost != nil:
		return nil, fmt.Errorf("%w: %s made its process end (%s)", ErrModule, module, ended(err, stderr.Bytes()))
	case said.Error != "":
		kind, ok := codes[said.Code]
		if !ok {
			kind = ErrModule
		}
		return nil, fmt.Errorf("%w%s", kind, strings.TrimPrefix(said.Error, kind.Error()))
	case len(said.Results) != len(keys):
		return nil, fmt.Errorf("%w: %s: %d answers for %d keys", ErrModule, module, len(said.Results), len(keys))
	}
	return said.Results, nil
}

// ended says how a process ended, with the first thing it said.
func ended(err error, stderr []byte) string {
	text := "without an answer"
	if err != nil {
		text = err.Error()
	}
	if first, _, _ := bytes.Cut(bytes.TrimSpace(stderr), []byte("\n")); len(first) > 0 {
		text += ": " + harmless.Text(string(first))
	}
	return text
}

// cause is the system's error, without the name of the call.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
