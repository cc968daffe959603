package android.content;

import android.content.res.AssetManager;
import java.io.File;

public class Context {
    private final AssetManager assets;
    private final File folder;

    public Context(File assets, File folder) {
        this.assets = new AssetManager(assets);
        this.folder = folder;
    }

    public AssetManager getAssets() {
        return assets;
    }

    public File getNoBackupFilesDir() {
        return folder;
    }
}
