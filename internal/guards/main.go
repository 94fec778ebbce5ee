// Command guards takes one guard after the other out of the program and runs
// the test that is named for it, which must fail then:
//
//	go run ./internal/guards [-run REGEXP] [-j N]
//
// The list is in list/, a file to a part of the tree. An entry is
//
//	guard A FEW WORDS THAT NO OTHER ENTRY HAS
//	test ./PACKAGE TestName
//	edit FILE
//	-a line that is there once, together with those that follow
//	+what is there without the guard
//
// with as many edits as it takes; a line with a blank before it stays as it is.
// Lines are found by what they say, not by their number. The patched files lie
// in a folder of their own (go's -overlay): the tree is only read. A list that
// does not apply, a patch that does not build, and a test that is not there,
// that fails without the patch or that hangs with it, are errors of the list.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	only := flag.String("run", "", "only guards whose name matches")
	workers := flag.Int("j", runtime.NumCPU(), "how many to try at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "guards:", err)
		os.Exit(1)
	}
}

// folder is where the list is, seen from the root of the tree.
const folder = "internal/guards/list"

func run(ctx context.Context, only string, workers int) error {
	start := time.Now()
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	list, err := readList(os.DirFS(folder))
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(g guard) bool { return !wanted.MatchString(g.name) })
	if len(list) == 0 {
		return fmt.Errorf("no guard matches %q", only)
	}
	scratch, err := os.MkdirTemp("", "guards-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)

	wrong := baseline(ctx, workers, list)
	failed := 0
	var one sync.Mutex
	each(workers, list, func(i int, g guard) {
		begin := time.Now()
		var verdict error
		if why := wrong[g.dir+" "+g.test]; why != "" {
			verdict = errors.New(why)
		} else {
			verdict = try(ctx, fmt.Sprintf("%s/%d", scratch, i), g)
		}
		one.Lock()
		defer one.Unlock()
		word := "noticed"
		if verdict != nil {
			word, failed = "FAILED", failed+1
		}
		fmt.Printf("%-7s %5.1fs  %s: %s (%s)\n", word, time.Since(begin).Seconds(), strings.TrimPrefix(g.dir, "./"), g.name, g.test)
		if verdict != nil {
			fmt.Printf("        %s: %v\n", g.where, verdict)
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Printf("%d guards taken out, %d noticed, in %s\n", len(list), len(list)-failed, time.Since(start).Round(time.Second))
	if failed > 0 {
		return fmt.Errorf("%d of %d failed", failed, len(list))
	}
	return nil
}

// each does all of a list, several at once.
func each[T any](workers int, list []T, do func(int, T)) {
	var wait sync.WaitGroup
	turn := make(chan struct{}, workers)
	for i, x := range list {
		turn <- struct{}{}
		wait.Go(func() {
			do(i, x)
			<-turn
		})
	}
	wait.Wait()
}
