package terminal

import (
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Progress shows a bar for each job that is under way. It is silent where its
// output is no terminal. The zero value and nil are silent.
type Progress struct {
	mu   sync.Mutex
	out  *os.File
	bars *mpb.Progress
	bar  *mpb.Bar
	what string
}

// NewProgress shows bars on out, if that is a terminal.
func NewProgress(out *os.File) *Progress {
	if out == nil || !IsTerminal(out) {
		return &Progress{}
	}
	return &Progress{out: out}
}

// Set shows that done of total of a job are done. A job that has another name
// than the one before takes a new line.
func (p *Progress) Set(what string, done, total int64) {
	if p == nil || p.out == nil || total <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bars == nil || p.what != what {
		p.finish()
		p.what = what
		p.bars = mpb.New(mpb.WithOutput(p.out), mpb.WithWidth(60))
		// Without a total from the start it is never complete, and a bar that is
		// not is always taken off the terminal when it ends.
		p.bar = p.bars.AddBar(0,
			mpb.PrependDecorators(decor.Name(Printable(what)+" ")),
			mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Name(" "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(min(done, total))
}

// Close takes the bar off the terminal. A prompt or a line of text comes after
// it.
func (p *Progress) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
}

func (p *Progress) finish() {
	if p.bars == nil {
		return
	}
	p.bar.Abort(true)
	p.bars.Wait()
	p.bars, p.bar, p.what = nil, nil, ""
}
