// Walks the tree of a Jinja template: statements write text, expressions give values, with Python's semantics and
// jinja2's scopes. Filters, tests and methods are jinja_builtin.c's.
#include "io/jinja_internal.h"

#include <math.h>
#include <string.h>

static Status eval(Render *r, const Node *n, JinjaValue *out);
static Status execute(Render *r, const Node *n);

// --- scopes ---------------------------------------------------------------------------------------------------------

static Status push_scope(Render *r, Scope *outer, Scope **out) {
    TRY(JINJA_ALLOC(r->memory, *out, 1));
    **out = (Scope){.outer = outer};
    return STATUS_OK;
}

static Status bind(Render *r, int name, JinjaValue value) {
    Scope *s = r->scope;
    if (s == NULL) {
        r->globals[name] = value;
        return STATUS_OK;
    }
    for (int i = 0; i < s->count; i++)
        if (s->v[i].name == name) {
            s->v[i].value = value;
            return STATUS_OK;
        }
    if (s->count == s->capacity) {
        const int capacity = s->capacity == 0 ? 8 : 2 * s->capacity;
        Binding *grown = NULL;
        TRY(JINJA_ALLOC(r->memory, grown, capacity));
        if (s->count > 0) memcpy(grown, s->v, (size_t)s->count * sizeof *grown);
        s->v = grown;
        s->capacity = capacity;
    }
    s->v[s->count++] = (Binding){name, value};
    return STATUS_OK;
}

static JinjaValue look_up(const Render *r, int name) {
    for (const Scope *s = r->scope; s != NULL; s = s->outer)
        for (int i = 0; i < s->count; i++)
            if (s->v[i].name == name) return s->v[i].value;
    if (r->globals[name].type != JINJA_MISSING) return r->globals[name];
    const struct Name *known = &r->template->names[name];
    return known->function != NULL ? (JinjaValue){.type = JINJA_FUNCTION, .function = known->function}
                                   : jinja_undefined(known->hint);
}

static Status set_namespace_item(Render *r, const Node *target, JinjaValue value) {
    const JinjaValue namespace = look_up(r, target->namespace_item.name);
    const JinjaValue attribute = target->namespace_item.attribute;
    r->line = target->line;
    if (namespace.type != JINJA_NAMESPACE) return JINJA_FAIL(r, "cannot assign attribute on non-namespace object");
    if (attribute.text[0] == '_')
        return JINJA_FAIL(r, "chat templates cannot store underscore-prefixed attributes on a namespace");
    return jinja_dict_set(r->memory, namespace, attribute, value);
}

static Status assign(Render *r, const Node *target, JinjaValue value) {
    if (target->kind == NODE_NAME) return bind(r, target->name, value);
    if (target->kind == NODE_NAMESPACE_ITEM) return set_namespace_item(r, target, value);
    const JinjaList *items;
    const int wanted = target->list.count;
    r->line = target->line;
    if (value.type != JINJA_UNDEFINED && value.type < JINJA_STRING)
        return JINJA_FAIL(r, "cannot unpack non-iterable %s object", jinja_type_name(value));
    TRY(jinja_items(r, value, &items));
    if (items->count > (size_t)wanted) return JINJA_FAIL(r, "too many values to unpack (expected %d)", wanted);
    if (items->count < (size_t)wanted)
        return JINJA_FAIL(r, "not enough values to unpack (expected %d, got %zu)", wanted, items->count);
    for (int i = 0; i < wanted; i++) TRY(assign(r, target->list.v[i], items->v[i]));
    return STATUS_OK;
}

// --- calls ----------------------------------------------------------------------------------------------------------

static Status add_stars(Render *r, const CallArguments *written, Arguments *out) {
    JinjaValue star, *positional = NULL, *name = NULL, *named = NULL;
    const JinjaList *items;
    if (written->star != NULL) {
        TRY(eval(r, written->star, &star));
        TRY(jinja_items(r, star, &items));
        if (items->count > 1000) return JINJA_FAIL(r, "a call with more than 1000 arguments");
        TRY(JINJA_ALLOC(r->memory, positional, (size_t)out->count + items->count + 1));
        if (out->count > 0) memcpy(positional, out->positional, (size_t)out->count * sizeof *positional);
        if (items->count > 0) memcpy(positional + out->count, items->v, items->count * sizeof *positional);
        out->positional = positional;
        out->count += (int)items->count;
    }
    if (written->star_star == NULL) return STATUS_OK;
    TRY(eval(r, written->star_star, &star));
    if (star.type != JINJA_DICT || star.dict->count > 1000)
        return JINJA_FAIL(r, "the argument after ** must be a mapping, not %s", jinja_type_name(star));
    const size_t count = (size_t)out->named_count;
    TRY(JINJA_ALLOC(r->memory, name, count + star.dict->count + 1));
    TRY(JINJA_ALLOC(r->memory, named, count + star.dict->count + 1));
    for (size_t i = 0; i < count + star.dict->count; i++) {
        name[i] = i < count ? out->name[i] : star.dict->key[i - count];
        named[i] = i < count ? out->named[i] : star.dict->value[i - count];
        if (name[i].type != JINJA_STRING) return JINJA_FAIL(r, "keywords must be strings");
    }
    out->name = name;
    out->named = named;
    out->named_count += (int)star.dict->count;
    return STATUS_OK;
}

static Status eval_arguments(Render *r, const CallArguments *written, Arguments *out) {
    JinjaValue *positional = NULL, *named = NULL;
    if (written->count > 0) TRY(JINJA_ALLOC(r->memory, positional, written->count));
    for (int i = 0; i < written->count; i++) TRY(eval(r, written->positional[i], &positional[i]));
    if (written->named_count > 0) TRY(JINJA_ALLOC(r->memory, named, written->named_count));
    for (int i = 0; i < written->named_count; i++) TRY(eval(r, written->named[i], &named[i]));
    *out = (Arguments){positional, written->count, written->name, named, written->named_count};
    return written->star != NULL || written->star_star != NULL ? add_stars(r, written, out) : STATUS_OK;
}

// The argument with this name, or NULL; marks it as used.
static const JinjaValue *named_argument(const Arguments *all, JinjaValue name, bool *used) {
    for (int i = 0; i < all->named_count; i++)
        if (jinja_same_text(all->name[i], name)) {
            used[i] = true;
            return &all->named[i];
        }
    return NULL;
}

static Status bind_parameters(Render *r, const Signature *s, const Arguments *all, bool *used) {
    for (int i = 0; i < s->count; i++) {
        const JinjaValue name = r->template->names[s->parameter[i]].text;
        const JinjaValue *named = i < all->count ? NULL : named_argument(all, name, used);
        JinjaValue value;
        if (i < all->count)
            value = all->positional[i];
        else if (named != NULL)
            value = *named;
        else if (s->otherwise[i] != NULL)
            TRY(eval(r, s->otherwise[i], &value));
        else
            TRY(jinja_hint(r, &value, "parameter '%.*s' was not provided", TEXT_ARGUMENT(name)));
        TRY(bind(r, s->parameter[i], value));
    }
    return STATUS_OK;
}

static bool has_parameter(const Signature *s, int name) {
    for (int i = 0; i < s->count; i++)
        if (s->parameter[i] == name) return true;
    return false;
}

// varargs, kwargs and caller, where the macro asks for them; what is left over is an error.
static Status bind_the_rest(Render *r, const Signature *s, const Arguments *all, bool *used) {
    const JinjaTemplate *t = r->template;
    JinjaValue rest;
    if (s->takes_caller && !has_parameter(s, t->caller)) {
        const JinjaValue *caller = named_argument(all, t->names[t->caller].text, used);
        TRY(bind(r, t->caller, caller != NULL ? *caller : jinja_undefined("No caller defined")));
    }
    if (s->takes_varargs) {
        TRY(jinja_new_list(r, JINJA_TUPLE, 0, &rest));
        for (int i = s->count; i < all->count; i++) TRY(jinja_list_add(r->memory, rest, all->positional[i]));
        TRY(bind(r, t->varargs, rest));
    } else if (all->count > s->count) {
        return JINJA_FAIL(r, "macro '%.*s' takes not more than %d argument(s)", TEXT_ARGUMENT(s->name), s->count);
    }
    TRY(jinja_dict(r->memory, 0, &rest));
    for (int i = 0; i < all->named_count; i++) {
        if (used[i]) continue;
        if (!s->takes_kwargs)
            return JINJA_FAIL(r, "macro '%.*s' takes no keyword argument '%.*s'", TEXT_ARGUMENT(s->name),
                              TEXT_ARGUMENT(all->name[i]));
        TRY(jinja_dict_set(r->memory, rest, all->name[i], all->named[i]));
    }
    return s->takes_kwargs ? bind(r, t->kwargs, rest) : STATUS_OK;
}

// The text of a body run in a scope of its own inside `outer`, where `scope` is one that is filled already.
static Status capture(Render *r, const Node *body, Scope *scope, JinjaValue *out) {
    Scope *around = r->scope;
    const size_t mark = jinja_mark(r);
    r->scope = scope;
    TRY(execute(r, body));
    r->scope = around;
    return jinja_take(r, mark, out);
}

static Status call_macro(Render *r, const JinjaMacro *macro, const Arguments *all, JinjaValue *out) {
    Scope *around = r->scope, *scope;
    bool *used = NULL;
    TRY(push_scope(r, macro->scope, &scope));
    TRY(JINJA_ALLOC(r->memory, used, all->named_count + 1));
    memset(used, 0, sizeof *used * (size_t)(all->named_count + 1));
    r->scope = scope;
    TRY(bind_parameters(r, macro->signature, all, used));
    TRY(bind_the_rest(r, macro->signature, all, used));
    r->scope = around;
    return capture(r, macro->signature->body, scope, out);
}

static Status run_loop(Render *r, const Node *n, JinjaValue over, int depth);

// loop(items) in a recursive loop
static Status call_loop(Render *r, const JinjaLoop *loop, const Arguments *all, JinjaValue *out) {
    if (!loop->node->loop.recursive)
        return JINJA_FAIL(r, "the loop must have the 'recursive' marker to be called recursively");
    if (all->count != 1 || all->named_count > 0) return JINJA_FAIL(r, "loop() takes one argument");
    Scope *around = r->scope;
    const size_t mark = jinja_mark(r);
    r->scope = loop->scope;
    TRY(run_loop(r, loop->node, all->positional[0], loop->depth + 1));
    r->scope = around;
    return jinja_take(r, mark, out);
}

static Status call(Render *r, JinjaValue callee, const Arguments *all, JinjaValue *out) {
    switch (callee.type) {
    case JINJA_METHOD:
        return jinja_run_builtin(r, callee.method->builtin, callee.method->of, all, out);
    case JINJA_FUNCTION:
        return jinja_run_builtin(r, callee.function, jinja_none(), all, out);
    case JINJA_MACRO:
        return call_macro(r, callee.macro, all, out);
    case JINJA_LOOP:
        return call_loop(r, callee.loop, all, out);
    case JINJA_UNDEFINED:
        return JINJA_FAIL(r, "%s", callee.hint);
    default:
        return JINJA_FAIL(r, "'%s' object is not callable", jinja_type_name(callee));
    }
}

// --- operators ------------------------------------------------------------------------------------------------------

static bool is_integer(JinjaValue v) {
    return v.type == JINJA_INT || v.type == JINJA_BOOL;
}

static int64_t integer_of(JinjaValue v) {
    return v.type == JINJA_BOOL ? v.boolean : v.integer;
}

static double real_of(JinjaValue v) {
    return v.type == JINJA_FLOAT ? v.real : (double)integer_of(v);
}

static Status too_big(Render *r) {
    return JINJA_FAIL(r, "a whole number beyond 64 bits is not supported");
}

static int64_t floor_modulo(int64_t a, int64_t b) {
    if (b == -1) return 0; // INT64_MIN % -1 is not defined in C
    const int64_t rest = a % b;
    return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static Status power(Render *r, int64_t a, int64_t b, JinjaValue *out) {
    if (b < 0) {
        if (a == 0) return JINJA_FAIL(r, "0.0 cannot be raised to a negative power");
        *out = jinja_float(pow((double)a, (double)b));
        return STATUS_OK;
    }
    int64_t result = 1;
    if (a == 0 || a == 1 || a == -1) {
        *out = jinja_int(b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a);
        return STATUS_OK;
    }
    for (; b > 0; b--)
        if (__builtin_mul_overflow(result, a, &result)) return too_big(r);
    *out = jinja_int(result);
    return STATUS_OK;
}

static Status whole_arithmetic(Render *r, Operation op, int64_t a, int64_t b, JinjaValue *out) {
    int64_t result = 0;
    bool overflow = false;
    if (op >= OP_DIVIDE && op <= OP_MODULO && b == 0)
        return JINJA_FAIL(r, "%s", op == OP_DIVIDE ? "division by zero" : "integer division or modulo by zero");
    switch (op) {
    case OP_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case OP_SUBTRACT:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case OP_MULTIPLY:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case OP_DIVIDE:
        *out = jinja_float((double)a / (double)b);
        return STATUS_OK;
    case OP_FLOOR_DIVIDE:
        overflow = a == INT64_MIN && b == -1;
        result = overflow ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case OP_MODULO:
        result = floor_modulo(a, b);
        break;
    default:
        return power(r, a, b, out);
    }
    *out = jinja_int(result);
    return overflow ? too_big(r) : STATUS_OK;
}

static Status real_arithmetic(Render *r, Operation op, double a, double b, JinjaValue *out) {
    if (op >= OP_DIVIDE && op <= OP_MODULO && b == 0) return JINJA_FAIL(r, "float division by zero");
    double rest;
    switch (op) {
    case OP_ADD:
        *out = jinja_float(a + b);
        break;
    case OP_SUBTRACT:
        *out = jinja_float(a - b);
        break;
    case OP_MULTIPLY:
        *out = jinja_float(a * b);
        break;
    case OP_DIVIDE:
        *out = jinja_float(a / b);
        break;
    case OP_FLOOR_DIVIDE:
        *out = jinja_float(floor(a / b));
        break;
    case OP_MODULO:
        rest = fmod(a, b);
        *out = jinja_float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
        break;
    default:
        *out = jinja_float(pow(a, b));
        if (isnan(out->real) && !isnan(a) && !isnan(b)) return JINJA_FAIL(r, "a complex number is not supported");
    }
    return STATUS_OK;
}

static Status join_lists(Render *r, JinjaValue a, JinjaValue b, JinjaValue *out) {
    TRY(jinja_new_list(r, a.type, a.list->count + b.list->count, out));
    for (size_t i = 0; i < a.list->count + b.list->count; i++)
        TRY(jinja_list_add(r->memory, *out, i < a.list->count ? a.list->v[i] : b.list->v[i - a.list->count]));
    return jinja_spend(r, out->list->count / 4);
}

static Status repeat(Render *r, JinjaValue v, int64_t times, JinjaValue *out) {
    const size_t count = v.type == JINJA_STRING ? v.size : v.list->count;
    if (times < 0 || count == 0) times = 0;
    if (v.type == JINJA_STRING) {
        const size_t mark = jinja_mark(r);
        for (; times > 0; times--) {
            TRY(jinja_spend(r, 0));
            TRY(jinja_put_value(r, v));
        }
        return jinja_take(r, mark, out);
    }
    TRY(jinja_new_list(r, v.type, 0, out));
    for (; times > 0; times--) {
        TRY(jinja_spend(r, count / 4));
        for (size_t i = 0; i < count; i++) TRY(jinja_list_add(r->memory, *out, v.list->v[i]));
    }
    return STATUS_OK;
}

static bool repeats(JinjaValue v) {
    return v.type == JINJA_STRING || v.type == JINJA_LIST || v.type == JINJA_TUPLE;
}

static Status join_texts(Render *r, JinjaValue a, JinjaValue b, JinjaValue *out) {
    char *text = NULL;
    TRY(jinja_spend(r, ((size_t)a.size + b.size) / 64));
    TRY(JINJA_ALLOC(r->memory, text, (size_t)a.size + b.size + 1));
    memcpy(text, a.text, a.size);
    memcpy(text + a.size, b.text, b.size);
    *out = jinja_string(text, (size_t)a.size + b.size);
    return STATUS_OK;
}

static Status format_text(Render *r, JinjaValue format, JinjaValue v, JinjaValue *out) {
    Arguments given = {.positional = &v, .count = 1};
    if (v.type == JINJA_TUPLE) given = (Arguments){.positional = v.list->v, .count = (int)v.list->count};
    if (v.type == JINJA_DICT) {
        given.name = v.dict->key;
        given.named = v.dict->value;
        given.named_count = (int)v.dict->count;
    }
    // What Python can take for a mapping need not be used.
    const bool mapping =
        v.type == JINJA_DICT || v.type == JINJA_LIST || v.type == JINJA_RANGE || v.type == JINJA_UNDEFINED;
    return jinja_percent(r, format, &given, !mapping, out);
}

Status jinja_binary(Render *r, Operation op, JinjaValue a, JinjaValue b, JinjaValue *out) {
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
    if (a.type == JINJA_STRING && b.type == JINJA_STRING && op == OP_ADD) return join_texts(r, a, b, out);
    if (is_integer(a) && is_integer(b)) return whole_arithmetic(r, op, integer_of(a), integer_of(b), out);
    const bool a_is_number = is_integer(a) || a.type == JINJA_FLOAT,
               b_is_number = is_integer(b) || b.type == JINJA_FLOAT;
    if (a_is_number && b_is_number) return real_arithmetic(r, op, real_of(a), real_of(b), out);
    if (a.type == JINJA_STRING && op == OP_MODULO) return format_text(r, a, b, out);
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED)
        return JINJA_FAIL(r, "%s", a.type == JINJA_UNDEFINED ? a.hint : b.hint);
    if (op == OP_ADD && a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE))
        return join_lists(r, a, b, out);
    if (op == OP_MULTIPLY && repeats(a) && is_integer(b)) return repeat(r, a, integer_of(b), out);
    if (op == OP_MULTIPLY && repeats(b) && is_integer(a)) return repeat(r, b, integer_of(a), out);
    if (op == OP_ADD && repeats(a))
        return JINJA_FAIL(r, "can only concatenate %s (not \"%s\") to %s", jinja_type_name(a), jinja_type_name(b),
                          jinja_type_name(a));
    return JINJA_FAIL(r, "unsupported operand type(s) for %s: '%s' and '%s'", names[op], jinja_type_name(a),
                      jinja_type_name(b));
}

static Status compare(Render *r, Operation op, JinjaValue a, JinjaValue b, bool *out) {
    switch (op) {
    case OP_EQUAL:
        return jinja_equal(r, a, b, out);
    case OP_NOT_EQUAL:
        TRY(jinja_equal(r, a, b, out));
        break;
    case OP_LESS:
        return jinja_less(r, a, b, "<", false, out);
    case OP_LESS_EQUAL:
        return jinja_less(r, a, b, "<=", true, out);
    case OP_GREATER:
        return jinja_less(r, b, a, ">", false, out);
    case OP_GREATER_EQUAL:
        return jinja_less(r, b, a, ">=", true, out);
    case OP_IN:
        return jinja_contains(r, b, a, out);
    default:
        TRY(jinja_contains(r, b, a, out));
    }
    *out = !*out; // of != and not in
    return STATUS_OK;
}

static Status eval_compare(Render *r, const Node *n, JinjaValue *out) {
    JinjaValue left, right;
    bool holds = true;
    TRY(eval(r, n->list.v[0], &left));
    for (int i = 1; i < n->list.count && holds; i++, left = right) {
        TRY(eval(r, n->list.v[i], &right));
        r->line = n->line;
        TRY(compare(r, n->list.op[i - 1], left, right, &holds));
    }
    *out = jinja_bool(holds);
    return STATUS_OK;
}

static Status eval_sign(Render *r, const Node *n, JinjaValue *out) {
    TRY(eval(r, n->one, out));
    r->line = n->line;
    if (out->type == JINJA_UNDEFINED) return JINJA_FAIL(r, "%s", out->hint);
    if (!is_integer(*out) && out->type != JINJA_FLOAT)
        return JINJA_FAIL(r, "bad operand type for unary %c: '%s'", n->kind == NODE_NEGATIVE ? '-' : '+',
                          jinja_type_name(*out));
    const JinjaValue zero = jinja_int(0);
    if (out->type == JINJA_FLOAT)
        out->real = n->kind == NODE_NEGATIVE ? -out->real : out->real;
    else
        TRY(jinja_binary(r, n->kind == NODE_NEGATIVE ? OP_SUBTRACT : OP_ADD, zero, *out, out));
    return STATUS_OK;
}

// --- expressions ----------------------------------------------------------------------------------------------------

static Status eval_list(Render *r, const Node *n, JinjaValue *out) {
    TRY(jinja_new_list(r, n->kind == NODE_TUPLE ? JINJA_TUPLE : JINJA_LIST, (size_t)n->list.count, out));
    for (int i = 0; i < n->list.count; i++) {
        JinjaValue item;
        TRY(eval(r, n->list.v[i], &item));
        TRY(jinja_list_add(r->memory, *out, item));
    }
    return STATUS_OK;
}

static Status eval_dict(Render *r, const Node *n, JinjaValue *out) {
    TRY(jinja_dict(r->memory, (size_t)n->list.count / 2, out));
    for (int i = 0; i < n->list.count; i += 2) {
        JinjaValue key, value;
        TRY(eval(r, n->list.v[i], &key));
        TRY(eval(r, n->list.v[i + 1], &value));
        r->line = n->line;
        if (key.type != JINJA_STRING && !is_integer(key) && key.type != JINJA_FLOAT && key.type != JINJA_NONE)
            return JINJA_FAIL(r, "a dict's key of the type '%s' is not supported", jinja_type_name(key));
        TRY(jinja_spend(r, out->dict->count / 8));
        TRY(jinja_dict_set(r->memory, *out, key, value));
    }
    return STATUS_OK;
}

static Status eval_concat(Render *r, const Node *n, JinjaValue *out) {
    const size_t mark = jinja_mark(r);
    for (int i = 0; i < n->list.count; i++) {
        JinjaValue v;
        TRY(eval(r, n->list.v[i], &v));
        r->line = n->line;
        TRY(jinja_put_value(r, v));
    }
    return jinja_take(r, mark, out);
}

static Status eval_logic(Render *r, const Node *n, JinjaValue *out) {
    for (int i = 0; i < n->list.count; i++) {
        TRY(eval(r, n->list.v[i], out));
        if (jinja_truth(*out) == (n->kind == NODE_OR)) return STATUS_OK;
    }
    return STATUS_OK;
}

static Status eval_item(Render *r, const Node *n, JinjaValue *out) {
    JinjaValue object, index;
    TRY(eval(r, n->of.object, &object));
    const Node *at = n->of.index;
    if (at->kind != NODE_SLICE) {
        TRY(eval(r, at, &index));
        r->line = n->line;
        return jinja_item(r, object, index, out);
    }
    const Node *const written[3] = {at->slice.start, at->slice.stop, at->slice.step};
    JinjaValue bound[3];
    for (int i = 0; i < 3; i++) {
        bound[i] = jinja_none();
        if (written[i] != NULL) TRY(eval(r, written[i], &bound[i]));
    }
    r->line = n->line;
    return jinja_slice(r, object, bound, out);
}

static Status eval_attribute(Render *r, const Node *n, JinjaValue *out) {
    JinjaValue object;
    TRY(eval(r, n->of.object, &object));
    r->line = n->line;
    return jinja_attribute(r, object, n->of.name, out);
}

// A call, or a filter or test put to a value.
static Status eval_call(Render *r, const Node *n, JinjaValue *out) {
    JinjaValue callee;
    Arguments all;
    TRY(eval(r, n->call.callee, &callee));
    TRY(eval_arguments(r, n->call.arguments, &all));
    r->line = n->line;
    return n->kind == NODE_CALL ? call(r, callee, &all, out) : jinja_run_builtin(r, n->call.builtin, callee, &all, out);
}

static Status eval_conditional(Render *r, const Node *n, JinjaValue *out) {
    TRY(eval(r, n->branch.test, out));
    if (jinja_truth(*out)) return eval(r, n->branch.then, out);
    if (n->branch.otherwise != NULL) return eval(r, n->branch.otherwise, out);
    return jinja_hint(r, out, "the inline if-expression on line %d evaluated to false and no else section was defined.",
                      n->line);
}

static Status eval_pair(Render *r, const Node *n, JinjaValue *out) {
    JinjaValue left, right;
    TRY(eval(r, n->pair.left, &left));
    TRY(eval(r, n->pair.right, &right));
    r->line = n->line;
    return jinja_binary(r, n->pair.op, left, right, out);
}

static Status eval_not(Render *r, const Node *n, JinjaValue *out) {
    TRY(eval(r, n->one, out));
    *out = jinja_bool(!jinja_truth(*out));
    return STATUS_OK;
}

static Status eval_kind(Render *r, const Node *n, JinjaValue *out) {
    switch (n->kind) {
    case NODE_TUPLE:
    case NODE_LIST:
        return eval_list(r, n, out);
    case NODE_DICT:
        return eval_dict(r, n, out);
    case NODE_ATTRIBUTE:
        return eval_attribute(r, n, out);
    case NODE_ITEM:
        return eval_item(r, n, out);
    case NODE_CALL:
    case NODE_FILTER:
    case NODE_TEST:
        return eval_call(r, n, out);
    case NODE_NOT:
        return eval_not(r, n, out);
    case NODE_NEGATIVE:
    case NODE_POSITIVE:
        return eval_sign(r, n, out);
    case NODE_AND:
    case NODE_OR:
        return eval_logic(r, n, out);
    case NODE_COMPARE:
        return eval_compare(r, n, out);
    case NODE_BINARY:
        return eval_pair(r, n, out);
    case NODE_CONCAT:
        return eval_concat(r, n, out);
    default:
        return eval_conditional(r, n, out);
    }
}

static Status eval(Render *r, const Node *n, JinjaValue *out) {
    switch (n->kind) {
    case NODE_CONST:
        *out = n->value;
        return STATUS_OK;
    case NODE_NAME:
        *out = look_up(r, n->name);
        return STATUS_OK;
    case NODE_CAPTURED:
        *out = r->captured;
        return STATUS_OK;
    default:
        break;
    }
    r->line = n->line;
    TRY(jinja_deeper(r));
    TRY(jinja_spend(r, 0));
    TRY(eval_kind(r, n, out));
    r->depth--;
    return STATUS_OK;
}

// --- statements -----------------------------------------------------------------------------------------------------

static Status execute_if(Render *r, const Node *n) {
    for (; n != NULL; n = n->branch.otherwise) {
        if (n->kind != NODE_IF) return execute(r, n); // else
        JinjaValue test;
        TRY(eval(r, n->branch.test, &test));
        if (jinja_truth(test)) return execute(r, n->branch.then);
    }
    return STATUS_OK;
}

// The items for which the condition in the loop's head holds; it sees no `loop`.
static Status filter_items(Render *r, const Node *n, const JinjaList **items) {
    JinjaValue kept, test;
    TRY(jinja_list(r->memory, 0, &kept));
    for (size_t i = 0; i < (*items)->count; i++) {
        r->scope->count = 0;
        TRY(assign(r, n->loop.target, (*items)->v[i]));
        TRY(eval(r, n->loop.test, &test));
        if (jinja_truth(test)) TRY(jinja_list_add(r->memory, kept, (*items)->v[i]));
    }
    *items = kept.list;
    return STATUS_OK;
}

static Status run_loop(Render *r, const Node *n, JinjaValue over, int depth) {
    JinjaLoop *loop = NULL;
    Scope *around = r->scope, *scope;
    const JinjaList *items;
    TRY(jinja_items(r, over, &items));
    TRY(push_scope(r, around, &scope));
    TRY(JINJA_ALLOC(r->memory, loop, 1));
    r->scope = scope;
    if (n->loop.test != NULL) TRY(filter_items(r, n, &items));
    *loop = (JinjaLoop){.items = items, .depth = depth, .node = n, .scope = around};
    for (; loop->index < items->count && r->leaving != NODE_BREAK; loop->index++) {
        scope->count = 0;
        TRY(assign(r, n->loop.target, items->v[loop->index]));
        TRY(bind(r, r->template->loop, (JinjaValue){.type = JINJA_LOOP, .loop = loop}));
        r->leaving = 0;
        TRY(execute(r, n->loop.body));
    }
    r->leaving = 0;
    scope->count = 0;
    if (items->count == 0 && n->loop.otherwise != NULL) TRY(execute(r, n->loop.otherwise));
    r->scope = around;
    return STATUS_OK;
}

static Status execute_for(Render *r, const Node *n) {
    JinjaValue over;
    TRY(eval(r, n->loop.over, &over));
    r->line = n->line;
    return run_loop(r, n, over, 0);
}

// The text of a body in a scope of its own, through the filter where there is one.
static Status block_text(Render *r, const Node *body, const Node *filter, JinjaValue *out) {
    Scope *scope;
    TRY(push_scope(r, r->scope, &scope));
    TRY(capture(r, body, scope, out));
    if (filter == NULL) return STATUS_OK;
    const JinjaValue around = r->captured;
    r->captured = *out;
    TRY(eval(r, filter, out));
    r->captured = around;
    return STATUS_OK;
}

static Status execute_set(Render *r, const Node *n) {
    JinjaValue value;
    if (n->kind == NODE_SET)
        TRY(eval(r, n->set.value, &value));
    else
        TRY(block_text(r, n->set.value, n->set.filter, &value));
    return assign(r, n->set.target, value);
}

static Status execute_filter_block(Render *r, const Node *n) {
    JinjaValue text;
    TRY(block_text(r, n->set.value, n->set.filter, &text));
    return jinja_put_value(r, text);
}

static Status execute_scoped(Render *r, const Node *body, Scope *scope) {
    Scope *around = r->scope;
    r->scope = scope;
    TRY(execute(r, body));
    r->scope = around;
    return STATUS_OK;
}

static Status execute_with(Render *r, const Node *n) {
    JinjaValue values;
    Scope *around = r->scope, *scope;
    TRY(eval(r, n->set.value, &values));
    TRY(push_scope(r, around, &scope));
    r->scope = scope;
    TRY(assign(r, n->set.target, values));
    r->scope = around;
    return execute_scoped(r, n->set.filter, scope);
}

static Status new_macro(Render *r, const Signature *signature, JinjaValue *out) {
    JinjaMacro *macro = NULL;
    TRY(JINJA_ALLOC(r->memory, macro, 1));
    *macro = (JinjaMacro){signature, r->scope};
    *out = (JinjaValue){.type = JINJA_MACRO, .macro = macro};
    return STATUS_OK;
}

static Status execute_macro(Render *r, const Node *n) {
    JinjaValue macro;
    TRY(new_macro(r, n->macro, &macro));
    return bind(r, jinja_name_find(r->template, n->macro->name.text, n->macro->name.size), macro);
}

// {% call f(a) %}body{% endcall %}: f(a, caller=body)
static Status execute_call_block(Render *r, const Node *n) {
    JinjaValue callee, result, *name = NULL, *named = NULL;
    Arguments all;
    TRY(eval(r, n->caller.call->call.callee, &callee));
    TRY(eval_arguments(r, n->caller.call->call.arguments, &all));
    r->line = n->line;
    const size_t count = (size_t)all.named_count;
    TRY(JINJA_ALLOC(r->memory, name, count + 1));
    TRY(JINJA_ALLOC(r->memory, named, count + 1));
    if (count > 0) {
        memcpy(name, all.name, count * sizeof *name);
        memcpy(named, all.named, count * sizeof *named);
    }
    name[count] = TEXT("caller");
    TRY(new_macro(r, n->caller.body, &named[count]));
    all.name = name;
    all.named = named;
    all.named_count++;
    TRY(call(r, callee, &all, &result));
    return jinja_put_value(r, result);
}

static Status execute_block(Render *r, const Node *n) {
    for (int i = 0; i < n->list.count && r->leaving == 0; i++) TRY(execute(r, n->list.v[i]));
    return STATUS_OK;
}

static Status execute_kind(Render *r, const Node *n) {
    JinjaValue v;
    Scope *scope;
    switch (n->kind) {
    case NODE_BLOCK:
        return execute_block(r, n);
    case NODE_OUTPUT:
        TRY(eval(r, n->one, &v));
        r->line = n->line;
        return jinja_put_value(r, v);
    case NODE_IF:
        return execute_if(r, n);
    case NODE_FOR:
        return execute_for(r, n);
    case NODE_SET:
    case NODE_SET_BLOCK:
        return execute_set(r, n);
    case NODE_WITH:
        return execute_with(r, n);
    case NODE_MACRO:
        return execute_macro(r, n);
    case NODE_SCOPE:
        TRY(push_scope(r, r->scope, &scope));
        return execute_scoped(r, n->one, scope);
    case NODE_FILTER_BLOCK:
        return execute_filter_block(r, n);
    case NODE_CALL_BLOCK:
        return execute_call_block(r, n);
    default: // break and continue
        r->leaving = n->kind;
        return STATUS_OK;
    }
}

static Status execute(Render *r, const Node *n) {
    if (n->kind == NODE_DATA) return jinja_put(r, n->value.text, n->value.size);
    r->line = n->line;
    TRY(jinja_deeper(r));
    TRY(jinja_spend(r, 0));
    TRY(execute_kind(r, n));
    r->depth--;
    return STATUS_OK;
}

Status jinja_render(const JinjaTemplate *template, JinjaScratch *scratch, const JinjaVariable *variables, int count,
                    time_t now, const char **text, size_t *bytes) {
    Render r = {.template = template, .memory = scratch, .line = 1, .now = now};
    TRY(JINJA_ALLOC(scratch, r.globals, template->name_count));
    memset(r.globals, 0, (size_t) template->name_count * sizeof *r.globals);
    for (int i = 0; i < count; i++) {
        const int id = jinja_name_find(template, variables[i].name, strlen(variables[i].name));
        if (id >= 0) r.globals[id] = variables[i].value;
    }
    scratch->output_size = 0;
    TRY(jinja_put(&r, "", 0));
    TRY(execute(&r, template->root));
    scratch->output[scratch->output_size] = '\0';
    *text = scratch->output;
    *bytes = scratch->output_size;
    return STATUS_OK;
}
