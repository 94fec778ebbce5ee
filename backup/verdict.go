package backup

// Verdict is how a job ended that was done: what is left of it, and whether
// something stored was found damaged.
type Verdict struct {
	Left    []string
	Damaged bool
}

func (v *Verdict) add(what ...string) { v.Left = append(v.Left, what...) }
