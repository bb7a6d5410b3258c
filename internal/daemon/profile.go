package daemon

import (
	"bytes"
	"context"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/profile"
)

// profiles says what the configuration has done with access profiles.
func profiles(c config.Profiles) image.Profiles {
	return image.Profiles{Record: c.Record, Use: c.Use, Referrers: c.Referrers}
}

// Profiles implements control.Service.
func (s *service) Profiles(ctx context.Context) ([]control.Profile, error) {
	list, err := s.catalog.Profiles(ctx)
	out := make([]control.Profile, len(list))
	for i, p := range list {
		out[i] = control.Profile(p)
	}
	return out, err
}

// Profile implements control.Service.
func (s *service) Profile(ctx context.Context, name string) (control.ProfileDetail, error) {
	_, info, err := s.catalog.Profile(ctx, name)
	if err != nil {
		return control.ProfileDetail{}, err
	}
	files, err := s.catalog.ProfileFiles(ctx, info.Manifest)
	if err != nil {
		return control.ProfileDetail{}, err
	}
	out := control.ProfileDetail{Profile: control.Profile(info), Files: make([]control.ProfileFile, len(files))}
	for i, f := range files {
		out.Files[i] = control.ProfileFile(f)
	}
	return out, nil
}

// ExportProfile implements control.Service.
func (s *service) ExportProfile(ctx context.Context, name, format string) (control.ProfileData, error) {
	out := control.ProfileData{Name: name, Format: format}
	switch format {
	case control.ProfileFormat:
		p, info, err := s.catalog.Profile(ctx, name)
		if err != nil {
			return out, err
		}
		out.Name = info.Manifest
		out.Data, err = profile.Encode(p)
		return out, err
	case control.RecordsFormat:
		records, err := s.catalog.ProfileRecords(ctx, name)
		if err != nil {
			return out, err
		}
		var text bytes.Buffer
		err = profile.WriteRecords(&text, records)
		out.Data = text.Bytes()
		return out, err
	}
	return out, unknownFormat("export", format)
}

func unknownFormat(op, format string) error {
	return fserr.Newf(fserr.Invalid, op, "profile", "format %q is neither %s nor %s", format, control.ProfileFormat, control.RecordsFormat)
}

// ImportProfile implements control.Service.
func (s *service) ImportProfile(ctx context.Context, d control.ProfileData) (control.Profile, error) {
	switch d.Format {
	case control.ProfileFormat:
		info, err := s.catalog.ImportProfile(ctx, d.Data, "imported")
		return control.Profile(info), err
	case control.RecordsFormat:
		records, err := profile.ReadRecords(bytes.NewReader(d.Data))
		if err != nil {
			return control.Profile{}, err
		}
		info, err := s.catalog.ImportRecords(ctx, d.Name, records)
		return control.Profile(info), err
	}
	return control.Profile{}, unknownFormat("import", d.Format)
}

// RemoveProfile implements control.Service.
func (s *service) RemoveProfile(ctx context.Context, name string) error {
	return s.catalog.RemoveProfile(ctx, name)
}

// PushProfile implements control.Service.
func (s *service) PushProfile(ctx context.Context, ref string) (control.PublishedProfile, error) {
	p, err := s.catalog.PushProfile(ctx, ref)
	if err != nil {
		return control.PublishedProfile{}, err
	}
	return control.PublishedProfile(*p), nil
}

// PullProfile implements control.Service.
func (s *service) PullProfile(ctx context.Context, r control.ProfileRequest) (control.Profile, error) {
	info, err := s.catalog.PullProfile(ctx, r.Ref, r.Digest)
	return control.Profile(info), err
}
