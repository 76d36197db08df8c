package admission

import "context"

type annotatorKey struct{}

// WithAnnotator lets what is found out under ctx be added to the request's audit events.
func WithAnnotator(ctx context.Context, annotate func(key, value string)) context.Context {
	return context.WithValue(ctx, annotatorKey{}, annotate)
}

// AnnotatorFrom gives what WithAnnotator left; nil where nobody notes the request.
func AnnotatorFrom(ctx context.Context) func(key, value string) {
	annotate, _ := ctx.Value(annotatorKey{}).(func(key, value string))
	return annotate
}

// annotate adds to the request's audit events, where there are any.
func (r *Request) annotate(key, value string) {
	if r.Annotate != nil {
		r.Annotate(key, value)
	}
}
