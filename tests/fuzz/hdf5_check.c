// See hdf5_check.h. What the input decides comes from its bytes in order; when they are spent, all is as expected.
#include "tests/fuzz/hdf5_check.h"
#include "io/hdf5_util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_MAX (1 << 16) // bytes of one dataset that are really written

static const H5I_type_t KINDS[] = {H5I_FILE,    H5I_GROUP, H5I_DATATYPE,   H5I_DATASPACE,
                                   H5I_DATASET, H5I_ATTR,  H5I_GENPROP_LST};
enum { KIND_COUNT = sizeof KINDS / sizeof *KINDS };

void hdf5_check_closed(void) {
    static hsize_t first[KIND_COUNT];
    static bool counted;
    for (int i = 0; i < KIND_COUNT; i++) {
        hsize_t open = 0;
        H5Inmembers(KINDS[i], &open);
        if (!counted) first[i] = open;
        FUZZ_CHECK(open <= first[i]);
    }
    counted = true;
}

typedef struct Bytes {
    const uint8_t *at;
    size_t left;
} Bytes;

void hdf5_seal_again(const char *path) {
#ifdef HDF5_SEAL_BYTES
    if (hdf5_seal(path) != STATUS_OK) error_clear(); // too short to have one
#else
    (void)path;
#endif
}

static unsigned take(Bytes *in) {
    if (in->left == 0) return 0;
    in->left--;
    return *in->at++;
}

// Never 0xA5, of which the file is full that no reader may reach.
static void fill(Bytes *in, unsigned char *to, size_t size) {
    for (size_t i = 0; i < size; i++) {
        to[i] = (unsigned char)(i < 64 ? take(in) : to[i - 64]);
        if (to[i] == 0xA5) to[i] = 0;
    }
}

// What can be wrong with one object; every larger value of the byte leaves it right.
enum Wrong { MISSING = 1, TYPE, SHAPE, LENGTH, CHUNK, LAYOUT, SOFT_LINK, EXTERNAL_LINK, GROUP, VALUES };

static hid_t other_type(Bytes *in) {
    hid_t type;
    unsigned which = take(in), size = 1 + take(in);
    switch (which % 12) {
    case 0:
        return H5Tcopy(H5T_STD_I8BE);
    case 1:
        return H5Tcopy(H5T_IEEE_F64BE);
    case 2:
        return H5Tcopy(H5T_STD_U64LE);
    case 3:
        type = H5Tcopy(H5T_C_S1);
        H5Tset_size(type, H5T_VARIABLE);
        return type;
    case 4:
        type = H5Tcopy(H5T_C_S1);
        H5Tset_size(type, size);
        return type;
    case 5:
        return H5Tcreate(H5T_OPAQUE, size);
    case 6:
        return H5Tvlen_create(H5T_STD_I32LE);
    case 7:
        return H5Tarray_create2(H5T_STD_I32LE, 1, (hsize_t[]){size});
    case 8:
        type = H5Tcreate(H5T_COMPOUND, 8);
        H5Tinsert(type, "rows", 0, H5T_STD_I32LE);
        H5Tinsert(type, "name", 4, H5T_STD_I32LE);
        return type;
    case 9:
        return H5Tcopy(H5T_STD_REF_OBJ);
    case 10:
        type = H5Tenum_create(H5T_STD_I32LE);
        H5Tenum_insert(type, "one", (int[]){1});
        return type;
    default:
        return H5Tcopy(H5T_STD_B64LE);
    }
}

static hid_t other_space(Bytes *in) {
    hsize_t sizes[3] = {take(in), take(in), take(in)};
    unsigned rank = take(in) % 5;
    if (rank == 4) return H5Screate(H5S_NULL);
    return rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple((int)rank, sizes, NULL);
}

static void make_attribute(hid_t file, const Expected *expected, enum Wrong wrong, Bytes *in) {
    hid_t type, space = wrong == SHAPE ? other_space(in) : H5Screate(H5S_SCALAR);
    if (wrong == TYPE) {
        type = other_type(in);
    } else if (expected->kind == TEXT) {
        type = H5Tcopy(H5T_C_S1);
        H5Tset_size(type, wrong == LENGTH ? 1 + take(in) : strlen(expected->text) + 1);
        H5Tset_cset(type, H5T_CSET_UTF8);
    } else {
        type = H5Tcopy(expected->type);
    }
    hid_t attribute = H5Acreate2(file, expected->name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    unsigned char *values = calloc(1, VALUES_MAX);
    FUZZ_CHECK(values != NULL);
    hssize_t points = H5Sget_simple_extent_npoints(space);
    bool pointers = H5Tdetect_class(type, H5T_VLEN) > 0 || H5Tis_variable_str(type) > 0;
    if (attribute >= 0 && !pointers && points > 0 && (size_t)points <= VALUES_MAX / H5Tget_size(type)) {
        if (expected->kind == TEXT && wrong != LENGTH && wrong != TYPE && points == 1)
            memcpy(values, expected->text, strlen(expected->text) + 1);
        else if (expected->good != NULL && wrong != VALUES && wrong != TYPE && points == 1)
            memcpy(values, expected->good, H5Tget_size(type));
        else
            fill(in, values, (size_t)points * H5Tget_size(type));
        H5Awrite(attribute, type, values);
    }
    free(values);
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void make_vector(hid_t file, const char *outside, const Expected *expected, enum Wrong wrong, Bytes *in) {
    hid_t type = wrong == TYPE ? other_type(in) : H5Tcopy(expected->type), list = H5Pcreate(H5P_DATASET_CREATE), space;
    hsize_t length = expected->length, limit = H5S_UNLIMITED, chunk = length > 0 ? length : 1;
    if (wrong == LENGTH) length = (hsize_t)take(in) << take(in) % 56;
    if (wrong == CHUNK) chunk = 1 + ((hsize_t)take(in) << take(in) % 24);
    unsigned layout = wrong == LAYOUT ? 1 + take(in) % 3 : 0;
    if (wrong == SHAPE)
        space = other_space(in);
    else
        space = H5Screate_simple(1, &length, layout == 0 ? &limit : NULL);
    if (wrong != SHAPE && layout == 0) {
        H5Pset_chunk(list, 1, &chunk);
        if (take(in) % 2 == 0) H5Pset_fletcher32(list);
    }
    if (layout == 1) H5Pset_layout(list, H5D_COMPACT);
    if (layout == 3) H5Pset_external(list, outside, 0, H5F_UNLIMITED);
    hid_t data_set = H5Dcreate2(file, expected->name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    hssize_t points = H5Sget_simple_extent_npoints(space);
    unsigned char *values = calloc(1, VALUES_MAX);
    FUZZ_CHECK(values != NULL);
    bool pointers = H5Tdetect_class(type, H5T_VLEN) > 0 || H5Tis_variable_str(type) > 0;
    if (data_set >= 0 && layout != 3 && wrong != CHUNK && !pointers && points > 0 &&
        (size_t)points <= VALUES_MAX / H5Tget_size(type)) {
        if (expected->good != NULL && wrong != VALUES && wrong != TYPE && (uint64_t)points == expected->length)
            memcpy(values, expected->good, (size_t)points * H5Tget_size(type));
        else
            fill(in, values, (size_t)points * H5Tget_size(type));
        H5Dwrite(data_set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    }
    free(values);
    if (data_set >= 0) H5Dclose(data_set);
    H5Pclose(list);
    H5Sclose(space);
    H5Tclose(type);
}

static void make_group_of(hid_t file, const char *name) {
    char group[64];
    const char *slash = strchr(name, '/');
    if (slash == NULL) return;
    size_t length = (size_t)(slash - name);
    memcpy(group, name, length);
    group[length] = '\0';
    if (H5Lexists(file, group, H5P_DEFAULT) <= 0)
        H5Gclose(H5Gcreate2(file, group, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}

// A link to a dataset that would fit, in another file.
static void link_outside(hid_t file, const char *outside, const Expected *expected) {
    char path[4096];
    snprintf(path, sizeof path, "%s.h5", outside);
    unsigned char *values = malloc(VALUES_MAX);
    FUZZ_CHECK(values != NULL);
    memset(values, 0xA5, VALUES_MAX);
    hsize_t length = expected->length;
    hid_t other = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = H5Screate_simple(1, &length, NULL), list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 1, &length);
    hid_t data_set = H5Dcreate2(other, "secret", expected->type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    FUZZ_CHECK(H5Dwrite(data_set, expected->type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(data_set);
    H5Pclose(list);
    H5Sclose(space);
    H5Fclose(other);
    free(values);
    H5Lcreate_external(path, "/secret", file, expected->name, H5P_DEFAULT, H5P_DEFAULT);
}

void hdf5_make(const char *path, const char *outside, const Expected *expected, int count, const uint8_t *data,
               size_t size) {
    Bytes in = {data, size};
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_LATEST);
#ifdef HDF5_SEAL_BYTES
    H5Pset_userblock(creation, HDF5_SEAL_BYTES);
#endif
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    FUZZ_CHECK(file >= 0);
    for (int i = 0; i < count; i++) {
        enum Wrong wrong = (enum Wrong)take(&in);
        if (expected[i].kind != VECTOR) {
            if (wrong != MISSING) make_attribute(file, &expected[i], wrong, &in);
            continue;
        }
        make_group_of(file, expected[i].name);
        if (wrong == SOFT_LINK)
            H5Lcreate_soft(take(&in) % 2 == 0 ? expected[i].name : "/", file, expected[i].name, H5P_DEFAULT,
                           H5P_DEFAULT);
        else if (wrong == EXTERNAL_LINK)
            link_outside(file, outside, &expected[i]);
        else if (wrong == GROUP)
            H5Gclose(H5Gcreate2(file, expected[i].name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        else if (wrong != MISSING)
            make_vector(file, outside, &expected[i], wrong, &in);
    }
    H5Fclose(file);
    H5Pclose(access);
    H5Pclose(creation);
    H5Eclear2(H5E_DEFAULT);
    hdf5_seal_again(path);
}
