package mount_test

import (
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/mount"
)

func TestFatalPending(t *testing.T) {
	status := func(pending, blocked, ignored, caught string) string {
		return "Name:\tx\nSigPnd:\t" + pending + "\nShdPnd:\t0\nSigBlk:\t" + blocked + "\nSigIgn:\t" + ignored + "\nSigCgt:\t" + caught + "\n"
	}
	for what, tt := range map[string]struct {
		status string
		want   bool
	}{
		"nothing":         {status("0", "0", "0", "0"), false},
		"killed":          {status("100", "0", "0", "0"), true},
		"killed, caught":  {status("100", "ffff", "ffff", "ffff"), true},
		"quit":            {status("4", "0", "0", "0"), true},
		"quit, caught":    {status("4", "0", "0", "4"), false},
		"quit, ignored":   {status("4", "0", "4", "0"), false},
		"quit, blocked":   {status("4", "4", "0", "0"), false},
		"child ended":     {status("10000", "0", "0", "0"), false},
		"urgent data":     {status("400000", "0", "0", "0"), false},
		"stopped":         {status("80000", "0", "0", "0"), false},
		"timer uncaught":  {status("2000", "0", "0", "0"), true},
		"what is this":    {"garbage\nSigPnd: zz\n", false},
		"pending process": {strings.Replace(status("0", "0", "0", "0"), "ShdPnd:\t0", "ShdPnd:\t4", 1), true},
	} {
		if got := mount.FatalPending([]byte(tt.status)); got != tt.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestV9FSKernels(t *testing.T) {
	for release, bad := range map[string]bool{
		"6.8.0-31-generic": false, "6.9.1": true, "6.10.0-rc1": true, "6.11.9-arch1": true, "6.12.0": false,
		"5.15.0": false, "7.10.2": false, "weird": false,
	} {
		if err := mount.CheckRelease(release); (err != nil) != bad {
			t.Errorf("%s: %v", release, err)
		}
	}
	if o := mount.V9FSOptions("6.12.1", 7, "image/x"); strings.Contains(o, "negtimeout") ||
		!strings.Contains(o, "rfdno=7,wfdno=7,version=9p2000.L,cache=loose,access=any,msize=262168,aname=image/x") {
		t.Error(o)
	}
	if o := mount.V9FSOptions("7.2.0", 7, "x"); !strings.HasSuffix(o, ",negtimeout=-1") {
		t.Error(o)
	}
	for list, want := range map[string]bool{"nodev\t9p\n": true, "\text4\nnodev\t9p": true, "nodev\t9px\n\text4\n": false, "": false} {
		if mount.ListsV9FS(list) != want {
			t.Errorf("%q", list)
		}
	}
}

func TestParseMode(t *testing.T) {
	for in, want := range map[string]mount.Mode{"": mount.Auto, "auto": mount.Auto, "fuse": mount.FUSE, "v9fs": mount.V9FS} {
		if got, err := mount.ParseMode(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := mount.ParseMode("nfs"); err == nil {
		t.Error("nfs is a mode")
	}
}
