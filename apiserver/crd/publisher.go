package crd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// publishPause gathers the definitions that come together, of an operator say, before their documents are made.
const publishPause = 100 * time.Millisecond

// publisher makes the documents of each group anew when its definitions change. It keeps none of them.
type publisher struct {
	c    *Controller
	wake chan struct{}

	mu     sync.Mutex
	wanted map[string][]*definition // by group

	models models // nil until they were asked for
	// published, what each group's documents were made from, belongs to run.
	published map[string]string
}

func newPublisher(c *Controller) publisher {
	return publisher{c: c, wake: make(chan struct{}, 1), published: map[string]string{}}
}

// set says what is served.
func (p *publisher) set(served map[string]*definition) {
	wanted := map[string][]*definition{}
	for _, name := range slices.Sorted(maps.Keys(served)) {
		d := served[name]
		wanted[d.crd.Spec.Group] = append(wanted[d.crd.Spec.Group], d)
	}
	p.mu.Lock()
	p.wanted = wanted
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *publisher) run(ctx context.Context) error {
	if p.c.OpenAPI == nil || p.c.Document == nil {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishPause):
		}
		if err := p.publish(ctx); err != nil {
			p.c.log.Error("OpenAPI does not show all kinds", "error", err)
		}
	}
}

func (p *publisher) publish(ctx context.Context) error {
	p.mu.Lock()
	wanted := p.wanted
	p.mu.Unlock()
	for group := range p.published {
		if wanted[group] == nil {
			p.c.OpenAPI(source+"/"+group, nil, nil)
			delete(p.published, group)
		}
	}
	for group, all := range wanted {
		key := ""
		for _, d := range all {
			key += d.key + "\n"
		}
		if p.published[group] == key {
			continue
		}
		if err := p.group(ctx, group, all); err != nil {
			return fmt.Errorf("%s: %w", group, err)
		}
		p.published[group] = key
	}
	return nil
}

// group publishes one group's documents. A definition that cannot be described is left out.
func (p *publisher) group(ctx context.Context, group string, all []*definition) error {
	known, err := p.known(ctx)
	if err != nil {
		return err
	}
	var made []*publication
	for _, d := range all {
		m, err := d.publication(known)
		if err != nil {
			p.c.log.Error("definition is not in OpenAPI", "name", d.crd.Name, "error", err)
			continue
		}
		made = append(made, m)
	}
	v3, v2 := join(made)
	p.c.OpenAPI(source+"/"+group, v3, v2)
	return nil
}

// known are the models of the server's own types, which are read once.
func (p *publisher) known(ctx context.Context) (models, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.models != nil {
		return p.models, nil
	}
	document, err := p.c.Document(ctx)
	if err != nil {
		return nil, err
	}
	p.models, err = readModels(document)
	return p.models, err
}

// typeConverter gives the schema that server-side apply merges objects of a version by. Without documents of the
// server's own types it is what the objects look like.
func (c *Controller) typeConverter(d *definition, v *versionSchema) (managedfields.TypeConverter, error) {
	if c.Document == nil {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	known, err := c.publisher.known(context.Background())
	if err != nil {
		c.log.Debug("no models of the server's own types", "error", err)
		return managedfields.NewDeducedTypeConverter(), nil
	}
	defs, err := d.all(v, known, false)
	if err != nil {
		return nil, err
	}
	schemas := map[string]*spec.Schema{}
	for name, def := range defs {
		schemas[name] = &def.Schema
	}
	return managedfields.NewTypeConverter(schemas, v.preserve)
}
