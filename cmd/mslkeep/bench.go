package main

import "context"

func bench(context.Context, *cli, []string) error { return nil }
