package fail

// Verdict is how a job ended that was done: what is left of it, and whether
// something stored was found damaged.
type Verdict struct {
	Left    []string
	Damaged bool
}

// Add says what is left.
func (v *Verdict) Add(what ...string) { v.Left = append(v.Left, what...) }
