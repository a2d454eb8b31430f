package logql

import "math"

// Constant evaluates an expression that reads no logs and is a single number.
// The value is that of a scalar.
func Constant(e Expr) (value float64, ok bool) {
	switch e := e.(type) {
	case *Number:
		return e.Value, true
	case *BinaryOp:
		l, lok := Constant(e.Left)
		r, rok := Constant(e.Right)
		if !lok || !rok || Logical(e.Op) {
			return 0, false
		}
		return Apply(e.Op, l, r), true
	}
	return 0, false
}

// Apply computes l op r. Comparisons give 0 or 1.
func Apply(op string, l, r float64) float64 {
	switch op {
	case "+":
		return l + r
	case "-":
		return l - r
	case "*":
		return l * r
	case "/":
		// Loki's division by zero is not a number, unlike that of Go.
		if r == 0 {
			return math.NaN()
		}
		return l / r
	case "%":
		if r == 0 {
			return math.NaN()
		}
		return math.Mod(l, r)
	case "^":
		return math.Pow(l, r)
	}
	if Compare(CompareOp(op), l, r) {
		return 1
	}
	return 0
}

// Compare reports whether l op r.
func Compare[T float64 | int64 | uint64](op CompareOp, l, r T) bool {
	switch op {
	case Equal:
		return l == r
	case NotEqual:
		return l != r
	case Greater:
		return l > r
	case GreaterOrEqual:
		return l >= r
	case Less:
		return l < r
	default:
		return l <= r
	}
}
