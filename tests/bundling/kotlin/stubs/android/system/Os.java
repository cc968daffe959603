package android.system;

import java.util.ArrayList;
import java.util.List;

public final class Os {
    public static final List<String> SET = new ArrayList<>();

    private Os() {}

    public static void setenv(String name, String value, boolean overwrite) {
        SET.add(name + "=" + value + (overwrite ? "!" : ""));
    }
}
