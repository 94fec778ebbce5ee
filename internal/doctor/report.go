package doctor

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Report is a text for whoever is asked for help: what was found, what was sent to
// tokens, without its data, and what was seen. program is the one that looked.
func (f *Facts) Report(program string, findings []Finding, trace []string) []byte {
	var b strings.Builder
	section := func(title string) { fmt.Fprintf(&b, "\n== %s ==\n", title) }
	fmt.Fprintf(&b, "%s, %s/%s, %s\n%s\n", program, runtime.GOOS, runtime.GOARCH, f.Now.UTC().Format(time.RFC3339), f.System())
	section("findings")
	for _, found := range findings {
		fmt.Fprintf(&b, "%s [%s] %s\n  -> %s\n", found.Severity, found.Code, found.What, found.Do)
	}
	section("commands sent to tokens, without their data; ** is a length that would tell of a secret")
	for _, line := range trace {
		fmt.Fprintln(&b, line)
	}
	section("what was seen")
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	seen := *f
	seen.Files = map[string]string{}
	for name, content := range f.Files {
		if strings.HasSuffix(name, "Info.plist") {
			content = "libccid " + f.CCID() // its list of readers is long, and known
		}
		seen.Files[name] = content
	}
	_ = e.Encode(seen) // strings, numbers and times
	text := b.String()
	if home, err := os.UserHomeDir(); err == nil && len(home) > 1 {
		text = strings.ReplaceAll(text, home, "~")
	}
	return []byte(text)
}
