package android.graphics;

public final class Bitmap {
    private final int width;
    private final int height;
    private final int[] colours;

    public Bitmap(int width, int height, int[] colours) {
        this.width = width;
        this.height = height;
        this.colours = colours;
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return height;
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        for (int row = 0; row < height; row++) {
            System.arraycopy(colours, (y + row) * this.width + x, pixels, offset + row * stride, width);
        }
    }
}
