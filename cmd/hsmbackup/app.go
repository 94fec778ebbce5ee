package main

import "hsmbackup/internal/cli"

// app is one run of the program, as the verbs need it.
type app struct{ *cli.App }

func newApp() *app { return &app{cli.New()} }
