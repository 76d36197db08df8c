//go:build !amd64

package main

import "errors"

func ports() error { return errors.New("this processor has none") }
